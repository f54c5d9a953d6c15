// Tests of the screens: what they say, and that they fit. How they look is for the eye.
#include <gtest/gtest.h>

#include <string>

#include "apps/sporkle/demo_screen.h"
#include "apps/sporkle/demo_summary.h"
#include "apps/sporkle/screen_parts.h"
#include "apps/sporkle/train_screen.h"
#include "base/terminal.h"

namespace sporkle::app {
namespace {

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

void expect_parts(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* part : parts) EXPECT_NE(text.find(part), std::string::npos) << "no \"" << part << "\" in\n" << text;
}

void expect_fit(const std::vector<std::string>& lines, const ScreenSize& size) {
  EXPECT_LT(lines.size(), static_cast<size_t>(size.height)) << joined(lines);
  for (const std::string& line : lines) EXPECT_LE(display_width(line), size.width) << line;
  if (!size.colour) {
    EXPECT_EQ(joined(lines).find('\x1b'), std::string::npos);
  }
}

History falling(int points, double from, double step) {
  History history;
  for (int i = 0; i < points; ++i) history.emplace_back(1000.0 * i, from - step * i);
  return history;
}

DemoScreen demo() {
  DemoScreen screen;
  screen.model = "GPT, 0.86M parameters";
  screen.corpus = "King James Bible";
  screen.stage = "training on the mesh";
  screen.nodes = {
      {"worker-1", "zxbueqaj", DemoNodeState::training, 1, false, 1234, 410'000, 3'400'000, 3'500'000, 12, 20},
      {"worker-2", "fkehzmuv", DemoNodeState::killed, 1, false, 1100, 200'000, 1'400'000, 1'500'000, 3, 20},
      {"worker-3", "cqvttnmi", DemoNodeState::sending, 0.5, false, 610, 205'000, 2'400'000, 2'500'000, 10, 10},
      {"worker-4", "dmpgxsj2", DemoNodeState::waiting, 0.25, false, 300, 99'000, 2'200'000, 2'100'000, 5, 5},
      {"worker-5", "x4jjslh7", DemoNodeState::starting, 1, true, 0, 0, 0, 0, 0, 0},
  };
  screen.round = 34;
  screen.inner_steps = 20;
  screen.tokens = 1'640'000;
  screen.total_tokens = 2'460'000;
  screen.tokens_per_second = 2144;
  screen.train_loss = falling(200, 5.5, 0.015);
  screen.validation_loss = {{0, 5.6}, {100'000, 3.0}, {199'000, 2.345}};
  screen.elapsed_s = 123;
  screen.remaining_s = 100;
  screen.events = {{1, "worker-1 joined"}, {118, "worker-2 was killed with SIGKILL"}, {121, "worker-5 started"}};
  return screen;
}

constexpr ScreenSize kSizes[] = {{80, 24, false}, {80, 24, true}, {100, 40, true}, {120, 60, false}};

TEST(DemoScreen, FitsAndShowsTheRun) {
  for (const ScreenSize& size : kSizes) {
    const auto lines = render_demo_screen(demo(), size);
    expect_fit(lines, size);
    expect_parts(joined(lines), {"Sporkle demo", "worker-1", "zxbueqaj", "training", "killed", "sending", "waiting",
                                 "starting", "12/20", "1.23k", "1.64M", "2.46M", "67%"});
  }
}

TEST(DemoScreen, ShowsCurvesEventsAndClockWhereThereIsRoom) {
  const auto lines = render_demo_screen(demo(), {100, 40, false});
  expect_parts(joined(lines),
               {"GPT, 0.86M parameters", "King James Bible", "elapsed 2m 03s, 1m 40s left", "round 34, H 20",
                "together 2.14k tok/s", "train loss 2.515", "validation 2.345", "3.40 MB", "3.50 MB", "limited 50%",
                "joined late", "1m 58s  worker-2 was killed with SIGKILL", "┤"});
  EXPECT_EQ(joined(lines).find("synchronous"), std::string::npos);
}

TEST(DemoScreen, ShowsTheComparisonWhenItRuns) {
  DemoScreen screen = demo();
  screen.synchronous_loss = falling(10, 5.0, 0.1);
  expect_parts(joined(render_demo_screen(screen, {120, 40, false})), {"synchronous 4.100"});
}

TEST(DemoScreen, KeepsTheLatestEvents) {
  DemoScreen screen = demo();
  for (int i = 0; i < 50; ++i) screen.events.push_back({124.0 + i, "event " + std::to_string(i) + "."});
  const auto lines = render_demo_screen(screen, {80, 40, false});
  expect_fit(lines, {80, 40, false});
  const std::string text = joined(lines);
  EXPECT_NE(text.find("event 49."), std::string::npos);
  EXPECT_EQ(text.find("event 20."), std::string::npos);
}

TEST(DemoScreen, OmitsTheSpeedOfNodesThatAreGone) {
  DemoScreen screen = demo();
  screen.nodes = {{"gone", "aaaaaaaa", DemoNodeState::lost, 1, false, 777, 1, 0, 0, 3, 20}};
  const std::string text = joined(render_demo_screen(screen, {100, 24, false}));
  EXPECT_EQ(text.find("777"), std::string::npos);
  EXPECT_EQ(text.find("3/20"), std::string::npos);
}

TEST(DemoScreen, AnEmptyRunAndHostileNamesAreFine) {
  for (const ScreenSize& size : kSizes) expect_fit(render_demo_screen(DemoScreen(), size), size);
  DemoScreen screen = demo();
  screen.nodes[0].name = "\x1b[2J\n\xff" + std::string(500, 'x');
  screen.events.push_back({1, "\x1b]0;title\x07" + std::string(500, 'y')});
  for (const ScreenSize& size : kSizes) {
    const auto lines = render_demo_screen(screen, size);
    expect_fit(lines, size);
    EXPECT_EQ(joined(lines).find("\x1b[2J"), std::string::npos);
  }
}

TEST(DemoLine, IsOneLineWithTheNumbers) {
  const std::string line = render_demo_line(demo());
  EXPECT_EQ(line.find('\n'), std::string::npos);
  expect_parts(line, {"round 34", "1.64M of 2.46M tokens", "train loss 2.515", "validation 2.345", "3 workers"});
}

DemoSummary summary() {
  DemoSummary result;
  result.validation_loss = 1.9125;
  result.synchronous_validation_loss = 1.75;
  result.bytes_per_node = 40'000'000;
  result.all_reduce_bytes_per_node = 3'000'000'000;
  result.rounds = 78;
  result.tokens = 2'460'000;
  result.seconds = 301.5;
  result.workers_joined = 5;
  result.workers_lost = 1;
  result.checkpoint = "demo/checkpoint";
  result.passage = "And it came to pass\nin those days \x1b[2J" + std::string(300, 'z');
  return result;
}

TEST(DemoSummary, SaysWhatCameOut) {
  for (const int width : {60, 100}) {
    const auto lines = render_demo_summary(summary(), width, false);
    expect_parts(joined(lines),
                 {"1.913 nats per byte", "1.750 trained synchronously (+0.163", "40.0 MB", "3.00 GB",
                  "5 joined, 1 lost", "78 rounds", "5m 02s", "  And it came to pass\n", "demo/checkpoint"});
    EXPECT_EQ(joined(lines).find('\x1b'), std::string::npos);
    for (const std::string& line : lines) EXPECT_LE(display_width(line), width) << line;
  }
  expect_parts(joined(render_demo_summary(summary(), 100, false)), {"(75 times as much)"});
}

TEST(DemoSummary, EventHasEveryField) {
  EXPECT_EQ(demo_summary_json(summary()),
            R"({"event":"summary","validation_loss":1.9125,"synchronous_validation_loss":1.75,)"
            R"("bytes_per_node":40000000,"all_reduce_bytes_per_node":3000000000,"rounds":78,"tokens":2460000,)"
            R"("seconds":301.5,"workers_joined":5,"workers_lost":1,"checkpoint":"demo/checkpoint"})");
}

TrainScreen train() {
  TrainScreen screen;
  screen.model = "GPT, 0.86M parameters";
  screen.corpus = "King James Bible, 4.04 MB";
  screen.device = "cpu, 2 threads, strict";
  screen.step = 250;
  screen.total_steps = 1000;
  screen.tokens = 1'024'000;
  screen.tokens_per_second = 8700;
  screen.learning_rate = 1.5e-3;
  screen.train_loss = falling(250, 5.5, 0.01);
  screen.validation_loss = {{0, 5.5}, {249'000, 3.25}};
  screen.elapsed_s = 118;
  screen.remaining_s = 353;
  screen.note = "saved out/step-250";
  return screen;
}

TEST(TrainScreen, FitsAndShowsTheTraining) {
  for (const ScreenSize& size : kSizes) {
    const auto lines = render_train_screen(train(), size);
    expect_fit(lines, size);
    expect_parts(joined(lines), {"Sporkle train", "step 250 of 1000", "25%", "train loss 3.010", "validation 3.250",
                                 "saved out/step-250", "elapsed 1m 58s, 5m 53s left"});
  }
  expect_parts(joined(render_train_screen(train(), {100, 30, false})),
               {"8.70k tok/s", "learning rate 1.50e-03", "cpu, 2 threads, strict", "┤"});
  for (const ScreenSize& size : kSizes) expect_fit(render_train_screen(TrainScreen(), size), size);
}

TEST(TrainScreen, InALowTerminalTheLossIsALine) {
  const auto lines = render_train_screen(train(), {80, 8, false});
  expect_fit(lines, {80, 8, false});
  expect_parts(joined(lines), {"train loss 3.010, validation 3.250"});
}

TEST(TrainLine, IsOneLineWithTheNumbers) {
  const std::string line = render_train_line(train());
  EXPECT_EQ(line.find('\n'), std::string::npos);
  expect_parts(line, {"step 250 of 1000", "train loss 3.010", "validation 3.250", "8.70k tok/s", "5m 53s left"});
}

TEST(BothEnds, FillsTheWidth) {
  EXPECT_EQ(both_ends("left", "right", 12), "left   right");
  EXPECT_EQ(both_ends("a long left side", "right", 12), "a lon… right");
  EXPECT_EQ(display_width(both_ends("left", "a very long right side", 10)), 10);
}

}  // namespace
}  // namespace sporkle::app
