// The demo's picture: what a run looks like at one moment, as lines of text. Pure functions of plain structs; whoever
// follows the run fills a DemoScreen and hands the lines to Terminal::redraw. Thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace sporkle::app {

enum class DemoNodeState {
  starting,  // launched, not in the run yet
  training,  // doing inner steps
  sending,   // moving parameters or its update
  waiting,   // for the round to close
  lost,      // silent: the coordinator gave it up
  killed,    // by the demo, with SIGKILL
  left,      // said good-bye
};

struct DemoNode {
  std::string name;
  std::string short_id;
  DemoNodeState state = DemoNodeState::starting;
  double speed_limit = 1;        // 0.5: throttled to half of its speed
  bool joined_late = false;      // came in mid-run
  double tokens_per_second = 0;  // 0: not measured yet
  uint64_t tokens = 0;
  uint64_t bytes_sent = 0;      // by the node
  uint64_t bytes_received = 0;  // by the node
  int64_t lease_step = 0;       // of lease_steps inner steps in this round; 0 of 0 without a lease
  int64_t lease_steps = 0;
};

struct DemoEvent {
  double at_s = 0;  // since the start of the demo
  std::string text;
};

using History = std::vector<std::pair<double, double>>;  // (tokens, loss), tokens ascending

struct DemoScreen {
  std::string model;   // "GPT, 0.86M parameters"
  std::string corpus;  // "King James Bible"
  std::string stage;   // what is going on: "training on the mesh", "training synchronously, for comparison"
  std::vector<DemoNode> nodes;
  uint64_t round = 0;
  int64_t inner_steps = 0;  // H
  uint64_t tokens = 0;
  uint64_t total_tokens = 0;
  double tokens_per_second = 0;  // of all nodes together
  History train_loss;
  History validation_loss;
  History synchronous_loss;  // validation loss of the comparison; empty until it runs
  double elapsed_s = 0;
  std::optional<double> remaining_s;
  std::vector<DemoEvent> events;  // oldest first
};

struct ScreenSize {
  int width = 80;  // clamped to 80..120; Terminal::redraw cuts what a narrower one cannot show
  int height = 24;
  bool colour = false;
};

// At most height - 1 lines (but never fewer than header and nodes need) of at most `width` columns. The loss curve
// takes the lines that are left over, and the latest events go last.
std::vector<std::string> render_demo_screen(const DemoScreen& screen, const ScreenSize& size);

// One line for where there is no terminal.
std::string render_demo_line(const DemoScreen& screen);

}  // namespace sporkle::app
