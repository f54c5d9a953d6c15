#include "validate/schedules.h"

#include <functional>
#include <optional>

#include "lower/schedule_space.h"

namespace sporkle::validate {
namespace {

using tensor::DType;
using Choice = std::function<lower::Schedule(const lower::ScheduleSpace& space)>;

// One call on one subject, its schedules as `choose` says. False when it failed, or chose nothing.
bool run(Bench& bench, const DrawnCall& drawn, const Values& expected, size_t subject, const Choice& choose,
         Outcome* outcome) {
  std::string chosen;
  tensor::ContextOptions options;
  options.choose_schedule = [&](std::string_view, const lower::Schedule& usual) {
    lower::Schedule schedule = choose(lower::ScheduleSpace(usual));
    chosen += " \"" + schedule.text() + "\"";
    return schedule;
  };
  // Kernels of its own, which nothing else has scheduled before.
  cache::KernelCache kernels(bench.device(subject));
  tensor::Context context(bench.device(subject), kernels, options);
  const Result<Values> found = compute(context, drawn, drawn.call.apply, DType::f32);
  if (lacks_f64(found.status())) {
    outcome->untested = Failure{subject, found.status().message()};
    return false;
  }
  if (!found.ok()) {
    outcome->failure = Failure{subject, "schedules" + chosen + ": " + found.status().to_string()};
    return false;
  }
  for (size_t j = 0; j < found->numbers.size(); ++j) {
    ++outcome->elements;
    if (same_bits(found->numbers[j], expected.numbers[j])) continue;
    outcome->failure =
        Failure{subject, "schedules" + chosen + ": " + found->place(j) + ": " + exact_text(found->numbers[j]) +
                             ", where the interpreter has " + exact_text(expected.numbers[j])};
    return false;
  }
  return !chosen.empty();
}

// The interpreter's bits; none when it failed, which the outcome then says.
std::optional<Values> interpreted(Bench& bench, const DrawnCall& drawn, Outcome* outcome) {
  Result<Values> expected = compute(bench.reference(), drawn, drawn.call.apply, DType::f32);
  if (expected.ok()) return *std::move(expected);
  outcome->failure = Failure{0, "the interpreter: " + expected.status().message()};
  return std::nullopt;
}

}  // namespace

Outcome check_schedules(Bench& bench, const DrawnCall& drawn, tensor::Draw& draw, int count) {
  Outcome outcome;
  const std::optional<Values> expected = interpreted(bench, drawn, &outcome);
  if (!expected) return outcome;
  for (int i = 0; i < count; ++i) {
    const uint64_t seed = draw.bits();
    for (size_t subject = 0; subject < bench.size(); ++subject) {
      tensor::Draw choice(seed, DType::f32, false);
      const auto any = [&](const lower::ScheduleSpace& space) { return space.at(choice.bits() % space.size()); };
      if (!run(bench, drawn, *expected, subject, any, &outcome)) return outcome;
    }
    ++outcome.schedules;
  }
  return outcome;
}

Outcome check_schedule_items(Bench& bench, const DrawnCall& drawn) {
  Outcome outcome;
  const std::optional<Values> expected = interpreted(bench, drawn, &outcome);
  if (!expected) return outcome;
  for (size_t number = 0;; ++number) {
    bool is_left = false;  // some kernel has such a change
    const auto change = [&](const lower::ScheduleSpace& space) {
      const std::vector<uint64_t> changes = space.changes();
      is_left = is_left || number < changes.size();
      return space.at(number < changes.size() ? changes[number] : 0);
    };
    if (!run(bench, drawn, *expected, bench.size() - 1, change, &outcome) || !is_left) return outcome;
    ++outcome.schedules;
  }
}

}  // namespace sporkle::validate
