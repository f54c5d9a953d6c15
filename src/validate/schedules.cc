#include "validate/schedules.h"

#include <algorithm>
#include <array>

#include "lower/schedule_space.h"

namespace sporkle::validate {

using tensor::DType;

bool has_scheduled_kernels(std::string_view operation) {
  constexpr std::array<std::string_view, 9> kNames = {"matmul",         "sum",    "max",        "gelu", "layer_norm",
                                                      "causal_softmax", "conv2d", "batch_norm", "adamw"};
  return std::ranges::find(kNames, operation) != kNames.end();
}

Outcome check_schedules(Bench& bench, const DrawnCall& drawn, tensor::Draw& draw, int count) {
  Outcome outcome;
  const Result<Values> expected = compute(bench.reference(), drawn, drawn.call.apply, DType::f32);
  if (!expected.ok()) {
    outcome.failure = Failure{0, "the interpreter: " + expected.status().message()};
    return outcome;
  }
  for (int i = 0; i < count; ++i) {
    const uint64_t seed = draw.bits();
    for (size_t subject = 0; subject < bench.size() && !outcome.failure; ++subject) {
      tensor::Draw choice(seed, DType::f32, false);
      std::string chosen;
      tensor::ContextOptions options;
      options.choose_schedule = [&](std::string_view, const lower::Schedule& usual) {
        const lower::ScheduleSpace space(usual);
        lower::Schedule schedule = space.at(choice.bits() % space.size());
        chosen += " \"" + schedule.text() + "\"";
        return schedule;
      };
      // Kernels of its own, which nothing else has scheduled before.
      cache::KernelCache kernels(bench.device(subject));
      tensor::Context context(bench.device(subject), kernels, options);
      const Result<Values> found = compute(context, drawn, drawn.call.apply, DType::f32);
      if (!found.ok()) {
        outcome.failure = Failure{subject, "schedules" + chosen + ": " + found.status().to_string()};
        continue;
      }
      for (size_t j = 0; j < found->numbers.size() && !outcome.failure; ++j) {
        ++outcome.elements;
        if (!same_bits(found->numbers[j], expected->numbers[j]))
          outcome.failure =
              Failure{subject, "schedules" + chosen + ": " + found->place(j) + ": " + exact_text(found->numbers[j]) +
                                   ", where the interpreter has " + exact_text(expected->numbers[j])};
      }
    }
  }
  return outcome;
}

}  // namespace sporkle::validate
