#include "run/config.h"

#include <charconv>
#include <cmath>
#include <limits>

#include "train/compression.h"

namespace sporkle::run {
namespace {

constexpr uint64_t kForever = std::numeric_limits<uint64_t>::max();

template <typename T>
bool parse_number(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

std::string_view trim(std::string_view text) {
  const size_t first = text.find_first_not_of(' ');
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(' ') - first + 1);
}

}  // namespace

Result<InnerStepSchedule> InnerStepSchedule::parse(std::string_view text) {
  InnerStepSchedule schedule;
  uint64_t round = 0;
  for (;;) {
    const size_t comma = text.find(',');
    const std::string_view entry = trim(text.substr(0, comma));
    const size_t cross = entry.find('x');
    uint32_t steps = 0;
    uint64_t rounds = 0;
    const bool last = comma == std::string_view::npos;
    const std::string_view count = cross == std::string_view::npos ? "" : entry.substr(cross + 1);
    const bool counted = !count.empty();
    if (!parse_number(entry.substr(0, cross), steps) || steps == 0 || (counted && !parse_number(count, rounds)) ||
        (counted && rounds == 0) || (!counted && !last) || rounds > kForever - 1 - round)
      return invalid_argument("inner steps: \"" + std::string(entry) +
                              "\" is not STEPSxROUNDS (only the last entry may leave out its rounds, as in "
                              "\"1x4,5x10,20x\")");
    round += rounds;
    schedule.entries_.push_back({steps, last ? kForever : round});
    if (last) return schedule;
    text.remove_prefix(comma + 1);
  }
}

uint32_t InnerStepSchedule::steps(uint64_t round) const {
  for (const Entry& entry : entries_)
    if (round < entry.end_round) return entry.steps;
  return entries_.empty() ? 1 : entries_.back().steps;
}

Status RunConfig::validate() const {
  const auto positive = [](double value) { return std::isfinite(value) && value > 0; };
  const auto bad = [](std::string_view field, std::string_view want) {
    return invalid_argument("run configuration: " + std::string(field) + " must be " + std::string(want));
  };
  const RunManifest& m = manifest;
  if (m.parameter_count == 0) return bad("parameter_count", "at least 1");
  if (m.token_bytes != 1 && m.token_bytes != 2 && m.token_bytes != 4) return bad("token_bytes", "1, 2 or 4");
  if (m.tokens_per_step == 0 || m.tokens_per_step > (1ull << 32)) return bad("tokens_per_step", "from 1 to 2^32");
  if (m.shard_tokens == 0 || m.shard_tokens > (1ull << 28)) return bad("shard_tokens", "from 1 to 2^28");
  if (m.tokens_per_step > m.shard_tokens * kMaxUnitsPerLease)
    return bad("shard_tokens",
               "larger: a single step would take more than " + std::to_string(kMaxUnitsPerLease) + " shards");
  if (m.total_steps == 0 || m.total_steps > (1ull << 40)) return bad("total_steps", "from 1 to 2^40");
  if (m.nominal_workers == 0 || m.nominal_workers > (1u << 20)) return bad("nominal_workers", "from 1 to 2^20");
  if (m.model.size() > (size_t{1} << 19)) return bad("model", "at most 512 KiB");
  if (auto schedule = InnerStepSchedule::parse(inner_steps); !schedule.ok()) return schedule.status();
  if (outer.empty() || outer.front().from_round != 0) return bad("outer", "a list of phases, the first from round 0");
  for (size_t i = 0; i < outer.size(); ++i) {
    if (i > 0 && outer[i].from_round <= outer[i - 1].from_round) return bad("outer", "in ascending order of rounds");
    if (!positive(outer[i].step.learning_rate)) return bad("outer learning rate", "positive");
    if (!(outer[i].step.momentum >= 0.0f && outer[i].step.momentum < 1.0f)) return bad("outer momentum", "in [0, 1)");
  }
  if (start_workers == 0) return bad("start_workers", "at least 1");
  if (quorum == 0) return bad("quorum", "at least 1");
  if (!(deadline_factor >= 1.0) || !std::isfinite(deadline_factor)) return bad("deadline_factor", "at least 1");
  if (!positive(minimum_deadline_s)) return bad("minimum_deadline_s", "positive");
  if (!positive(unmeasured_deadline_s)) return bad("unmeasured_deadline_s", "positive");
  if (!(heartbeat_interval_s >= 0.01) || !std::isfinite(heartbeat_interval_s))
    return bad("heartbeat_interval_s", "at least 0.01");
  if (!(heartbeat_timeout_s > heartbeat_interval_s) || !std::isfinite(heartbeat_timeout_s))
    return bad("heartbeat_timeout_s", "more than heartbeat_interval_s");
  if (!positive(disconnect_grace_s)) return bad("disconnect_grace_s", "positive");
  if (!positive(restart_grace_s)) return bad("restart_grace_s", "positive");
  if (!positive(long_poll_s)) return bad("long_poll_s", "positive");
  if (!(norm_bound > 1.0)) return bad("norm_bound", "more than 1");
  if (compression != "auto")
    if (auto known = train::parse_compression(compression); !known.ok())
      return known.status().with_context("run configuration: compression (or \"auto\")");
  if (reduction != "coordinator" && reduction != "peers") return bad("reduction", "\"coordinator\" or \"peers\"");
  if (max_workers == 0) return bad("max_workers", "at least 1");
  return {};
}

train::OuterStep RunConfig::outer_step(uint64_t round) const {
  train::OuterStep step = outer.front().step;
  for (const OuterPhase& phase : outer)
    if (round >= phase.from_round) step = phase.step;
  return step;
}

uint64_t all_reduce_bytes_per_node(uint64_t parameter_count, uint32_t nodes, uint64_t steps) {
  if (nodes < 2) return 0;
  return 16 * parameter_count * (nodes - 1) / nodes * steps;
}

}  // namespace sporkle::run
