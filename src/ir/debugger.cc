#include "ir/debugger.h"

#include <charconv>
#include <set>

#include "base/edit_distance.h"
#include "ir/builder.h"
#include "ir/interpreter_core.h"
#include "ir/verifier.h"

namespace sporkle::ir {
namespace {

// The ranges that a node depends on: not those that it opens itself.
std::set<const Node*> ranges_of(const Node* node) {
  std::set<const Node*> ranges;
  visit_post_order(node, [&](const Node* inner) {
    if (inner->op == Op::range) ranges.insert(inner);
  });
  visit_post_order(node, [&](const Node* inner) {
    if (inner->op == Op::reduce || inner->op == Op::lane_reduce) ranges.erase(inner->src(1));
  });
  return ranges;
}

class DebugHooks {
 public:
  static constexpr bool kActive = true;

  DebugHooks(const ParsedText& text, std::span<const InterpreterBuffer> buffers, const DebugOptions& options)
      : text_(text), options_(options) {
    for (size_t i = 0; i < buffers.size(); ++i) {
      const size_t count = buffers[i].size_bytes / static_cast<size_t>(dtype_size(text.kernel.buffers[i].type));
      has_value_.emplace_back(count, options.initialised.empty() || options.initialised[i]);
    }
    for (size_t i = 0; i < options.watches.size(); ++i) {
      watches_.emplace(options.watches[i].node, i);
      ranges_.push_back(ranges_of(options.watches[i].node));
    }
  }

  bool step() { return ++steps_ <= options_.max_steps; }
  void open(const Node* range) { open_.emplace_back(range, 0); }
  void close(const Node*) { open_.pop_back(); }
  void bind(int64_t index) { open_.back().second = index; }

  void value(const Node* node, uint64_t bits) const {
    const auto [begin, end] = watches_.equal_range(node);
    for (auto it = begin; it != end; ++it) {
      const bool wanted = std::ranges::all_of(options_.watches[it->second].at, [&](const auto& chosen) {
        return std::ranges::find(open_, chosen) != open_.end();
      });
      if (!wanted) continue;
      std::vector<std::pair<const Node*, int64_t>> indices;
      for (const auto& open : open_)
        if (ranges_[it->second].contains(open.first)) indices.push_back(open);
      options_.seen({it->second, bits, indices});
    }
  }

  bool load(size_t memory, size_t index) const { return has_value_[memory][index]; }
  void store(size_t memory, size_t index) { has_value_[memory][index] = true; }
  void clear(size_t memory, size_t count) {
    if (has_value_.size() <= memory) has_value_.resize(memory + 1);
    has_value_[memory].assign(count, false);
  }

  // " (line 9, where i = 3, j = 0)"
  std::string where(const Node* node) const {
    std::string text;
    if (const auto found = text_.lines.find(node); found != text_.lines.end())
      text = "line " + std::to_string(found->second);
    for (size_t i = 0; i < open_.size(); ++i) {
      text += i > 0 ? ", " : text.empty() ? "where " : ", where ";
      text += std::string(open_[i].first->name) + " = " + std::to_string(open_[i].second);
    }
    return text.empty() ? text : " (" + text + ")";
  }

  uint64_t steps() const { return std::min(steps_, options_.max_steps); }
  uint64_t elements_with_value(size_t buffer) const {
    return static_cast<uint64_t>(std::ranges::count(has_value_[buffer], true));
  }

 private:
  const ParsedText& text_;
  const DebugOptions& options_;
  std::unordered_multimap<const Node*, size_t> watches_;
  std::vector<std::set<const Node*>> ranges_;  // of each watch
  std::vector<std::pair<const Node*, int64_t>> open_;
  std::vector<std::vector<bool>> has_value_;  // by memory: buffers, then scratch
  uint64_t steps_ = 0;
};

Status no_such_node(const ParsedText& text, std::string_view name) {
  std::vector<std::string> known;
  size_t values = 0;
  for (const auto& [each, node] : text.names) {
    known.push_back(each);
    values += each.starts_with('%');
  }
  std::string message = "--watch: the kernel has no node " + std::string(name);
  if (const std::string nearest = nearest_name(name, known); !nearest.empty())
    message += "; did you mean " + nearest + "?";
  if (values > 0) message += " (its values are %0 to %" + std::to_string(values - 1) + ")";
  return not_found(message);
}

}  // namespace

Result<WatchPoint> parse_watch(const ParsedText& text, std::string_view node, std::string_view at) {
  const bool is_number = !node.empty() && node.find_first_not_of("0123456789") == std::string_view::npos;
  const std::string name = (is_number ? "%" : "") + std::string(node);
  const auto found = text.names.find(name);
  if (found == text.names.end()) return no_such_node(text, name);
  WatchPoint watch{found->second, {}};
  if (watch.node->op <= Op::range)
    return invalid_argument("--watch: " + name + " is a " + std::string(op_name(watch.node->op)) +
                            ", which is not computed; watch a value, such as what is loaded from it");
  const std::set<const Node*> ranges = ranges_of(watch.node);
  std::vector<std::string> known;
  for (const Node* range : ranges) known.emplace_back(range->name);
  while (!at.empty()) {
    const std::string_view item = at.substr(0, at.find(','));
    at.remove_prefix(std::min(item.size() + 1, at.size()));
    const size_t equals = item.find('=');
    int64_t index = 0;
    const char* const end = item.data() + item.size();
    const char* const digits = item.data() + std::min(equals + 1, item.size());
    if (equals == std::string_view::npos || equals == 0 || std::from_chars(digits, end, index).ptr != end ||
        digits == end || index < 0)
      return invalid_argument("--watch: \"" + std::string(item) + "\" is no index; expected RANGE=NUMBER, such as i=3");
    const std::string_view range_name = item.substr(0, equals);
    const auto range = std::ranges::find_if(ranges, [&](const Node* r) { return r->name == range_name; });
    if (range == ranges.end()) {
      std::string message =
          "--watch: " + name + " does not depend on a range \"" + std::string(range_name) + "\"; it depends on ";
      for (size_t i = 0; i < known.size(); ++i) message += (i > 0 ? ", " : "") + known[i];
      return not_found(message + (known.empty() ? "none" : ""));
    }
    watch.at.emplace_back(*range, index);
  }
  return watch;
}

Result<DebugReport> interpret_with_checks(const ParsedText& text, std::span<const InterpreterBuffer> buffers,
                                          std::span<const uint64_t> scalars, const DebugOptions& options) {
  SPORKLE_RETURN_IF_ERROR(verify(text.kernel));
  SPORKLE_RETURN_IF_ERROR(check_argument_counts(text.kernel, buffers.size(), scalars.size()));
  DebugHooks hooks(text, buffers, options);
  const Status status = Interpreter(text.kernel, buffers, scalars, hooks).run();
  if (!status.ok() && hooks.steps() >= options.max_steps)
    return invalid_argument(status.message() + "; allow more than " + std::to_string(options.max_steps) +
                            " with --max-steps, or look for a loop that is longer than it should be");
  SPORKLE_RETURN_IF_ERROR(status);
  DebugReport report{hooks.steps(), {}};
  for (size_t i = 0; i < buffers.size(); ++i) report.elements_with_value.push_back(hooks.elements_with_value(i));
  return report;
}

}  // namespace sporkle::ir
