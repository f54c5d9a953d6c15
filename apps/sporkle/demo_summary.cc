#include "apps/sporkle/demo_summary.h"

#include <algorithm>

#include "base/format_units.h"
#include "base/json_writer.h"
#include "base/terminal.h"

namespace sporkle::app {
namespace {

constexpr int kLabelWidth = 18;

std::string plural(int64_t count, const std::string& noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

}  // namespace

std::vector<std::string> render_demo_summary(const DemoSummary& summary, int width, bool colour) {
  width = std::clamp(width, 60, 120);
  std::vector<std::string> lines;
  const auto row = [&](const std::string& label, const std::string& value) {
    lines.push_back(cut_to_width(paint(pad_right(label, kLabelWidth), Colour::dim, colour) + value, width));
  };
  const auto strong = [&](const std::string& text) { return paint(text, Colour::bold, colour); };

  const double gap = summary.validation_loss - summary.synchronous_validation_loss;
  row("validation loss", strong(format_fixed(summary.validation_loss, 3)) + " nats per byte on the mesh");
  row("", strong(format_fixed(summary.synchronous_validation_loss, 3)) + " trained synchronously (" +
              (gap < 0 ? "" : "+") + format_fixed(gap, 3) + " for the mesh)");
  row("bytes per node", strong(format_bytes(static_cast<double>(summary.bytes_per_node))) + " sent and received");
  std::string all_reduce =
      strong(format_bytes(static_cast<double>(summary.all_reduce_bytes_per_node))) + " by all-reduce at every step";
  if (summary.bytes_per_node > 0) {
    const double factor =
        static_cast<double>(summary.all_reduce_bytes_per_node) / static_cast<double>(summary.bytes_per_node);
    all_reduce += " (" + format_count(factor) + " times as much)";
  }
  row("", all_reduce);
  row("trained", format_count(static_cast<double>(summary.tokens)) + " tokens in " +
                     plural(static_cast<int64_t>(summary.rounds), "round") + ", " + format_duration(summary.seconds));
  row("workers", std::to_string(summary.workers_joined) + " joined, " + std::to_string(summary.workers_lost) + " lost");
  if (!summary.passage.empty()) {
    lines.emplace_back();
    lines.push_back(paint("The model writes:", Colour::dim, colour));
    std::string passage;  // line ends stay, everything else that is not text goes
    for (size_t begin = 0; begin <= summary.passage.size();) {
      const size_t end = std::min(summary.passage.find('\n', begin), summary.passage.size());
      passage += (begin == 0 ? "" : "\n") + printable(std::string_view(summary.passage).substr(begin, end - begin));
      begin = end + 1;
    }
    for (const std::string& line : wrap(passage, width - 2)) lines.push_back("  " + line);
  }
  lines.emplace_back();
  // Never cut: people copy these.
  lines.push_back(paint(pad_right("checkpoint", kLabelWidth), Colour::dim, colour) + printable(summary.checkpoint));
  lines.push_back(paint(pad_right("more text", kLabelWidth), Colour::dim, colour) + "sporkle generate " +
                  printable(summary.checkpoint));
  return lines;
}

std::string demo_summary_json(const DemoSummary& summary) {
  return JsonObject()
      .add("event", "summary")
      .add("validation_loss", summary.validation_loss)
      .add("synchronous_validation_loss", summary.synchronous_validation_loss)
      .add("bytes_per_node", summary.bytes_per_node)
      .add("all_reduce_bytes_per_node", summary.all_reduce_bytes_per_node)
      .add("rounds", summary.rounds)
      .add("tokens", summary.tokens)
      .add("seconds", summary.seconds)
      .add("workers_joined", summary.workers_joined)
      .add("workers_lost", summary.workers_lost)
      .add("checkpoint", summary.checkpoint)
      .text();
}

}  // namespace sporkle::app
