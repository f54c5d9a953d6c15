#include <algorithm>
#include <cstdio>
#include <memory>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "apps/sporkle/kernel_run.h"
#include "base/edit_distance.h"
#include "base/file.h"
#include "codegen/compile.h"
#include "ir/text.h"

namespace sporkle::app {
namespace {

struct ShowOptions {
  std::string file, target = "cpu", stage = "all", schedule;
};

struct Stage {
  std::string name, text;
};

// What comes out of the last lowering pass has this name as well, whatever the passes of a target are.
constexpr std::string_view kLowered = "lowered";

Status show(const ShowOptions& o) {
  SPORKLE_ASSIGN_OR_RETURN(const ir::ParsedText parsed, read_kernel(o.file));
  SPORKLE_ASSIGN_OR_RETURN(const lower::Schedule schedule, lower::Schedule::parse(o.schedule));
  std::string target = o.target;
  if (target == "cpu") {
    SPORKLE_ASSIGN_OR_RETURN(target, codegen::host_cpu_target());
  }
  if (codegen::CpuTarget::from_name(target).ok()) target = std::string(codegen::kCpuPrefix) + target;
  std::vector<Stage> stages{{"trace", ir::print(parsed.kernel)}};
  const auto compiled =
      codegen::compile(parsed.kernel, schedule, target, [&](std::string_view name, std::string_view text) {
        stages.push_back({std::string(name), std::string(text)});
      });

  const auto is_pass = [](const Stage& stage) { return stage.text.starts_with("kernel "); };
  size_t shown = 0;
  for (size_t i = 0; i < stages.size(); ++i) {
    const Stage& stage = stages[i];
    const bool is_last_pass = is_pass(stage) && i > 0 && (i + 1 == stages.size() || !is_pass(stages[i + 1]));
    if (o.stage != "all" && o.stage != stage.name && !(o.stage == kLowered && is_last_pass)) continue;
    if (o.stage == "all") std::printf("%s== %s ==\n", i > 0 ? "\n" : "", stage.name.c_str());
    std::fputs(stage.text.c_str(), stdout);
    ++shown;
  }
  // A failure matters unless the stage that was asked for came before it.
  if (o.stage == "all" || shown == 0) SPORKLE_RETURN_IF_ERROR(compiled.status());
  if (shown > 0) return {};
  std::vector<std::string> known{"all", std::string(kLowered)};
  std::string list = "all, lowered";
  for (const Stage& stage : stages) {
    known.push_back(stage.name);
    list += ", " + stage.name;
  }
  const std::string nearest = nearest_name(o.stage, known);
  return not_found("--stage " + o.stage + ": no such stage for target " + target +
                   (nearest.empty() ? "" : "; did you mean " + nearest + "?") + " (stages: " + list + ")");
}

}  // namespace

void register_kernel(Cli& cli) {
  Command kernel = cli.command("kernel", "Look at one kernel: what it is compiled to, and what it computes");

  auto show_options = std::make_shared<ShowOptions>();
  Command shown = kernel.command("show", "Print every stage of a kernel on its way to machine code");
  shown.option("file", &show_options->file, "The kernel's text (see docs/debugging.md)").required().value_name("FILE");
  shown.option("--target", &show_options->target, "cpu for this machine, or such as x86-64-v3 or aarch64")
      .value_name("TARGET");
  shown.option("--stage", &show_options->stage, "trace, lowered, a lowering pass, llvm, assembly, or all")
      .value_name("STAGE");
  shown.option("--schedule", &show_options->schedule, "How its loops run, such as \"i:thread1024 i:vec16\"")
      .value_name("TEXT");
  shown.example("kernel show examples/kernels/saxpy.ir --schedule \"i:thread1024 i:vec16\" --stage assembly",
                "Prints the machine code of a vectorised loop.");
  shown.action([show_options] { return show(*show_options); });

  auto run_options = std::make_shared<KernelRunOptions>();
  KernelRunOptions& r = *run_options;
  Command run = kernel.command("run", "Execute a kernel, every access checked");
  run.option("file", &r.file, "The kernel's text (see docs/debugging.md)").required().value_name("FILE");
  run.option("--inputs", &r.inputs,
             "NAME=random:COUNT, zeros:, ones:, index: or empty:COUNT, numbers with commas, or a file of elements")
      .value_name("NAME=DATA");
  run.option("--scalar", &r.scalars, "A scalar argument's value").value_name("NAME=VALUE");
  run.option("--seed", &r.seed, "Of the random numbers");
  run.option("--device", &r.device, "Run there as well, and compare every element").value_name("DEVICE");
  run.flag("--interpret", &r.interpret, "Run in the interpreter alone");
  run.flag("--unchecked", &r.unchecked, "Run on the device alone; an access out of bounds may crash");
  run.option("--schedule", &r.schedule, "How its loops run on the device").value_name("TEXT");
  run.option("--watch", &r.watches, "Show a value whenever it is computed, such as %2 or %2@i=3,j=0")
      .value_name("NODE[@RANGE=INDEX,...]");
  run.option("--watch-limit", &r.watch_limit, "Show at most so many values").range(1, 1e9);
  run.option("--print", &r.prints, "A buffer to print, and how much; without it, 8 elements of each that is written")
      .value_name("NAME[:COUNT]");
  run.option("--max-steps", &r.max_steps, "Iterations and stores that the interpreter takes at most").range(1, 1e15);
  run.example("kernel run examples/kernels/saxpy.ir --inputs x=random:1024 y=ones:1024 --scalar n=1024 a=2",
              "Runs it in the interpreter and on the CPU, and compares the results bit for bit.");
  run.example(
      "kernel run examples/kernels/softmax.ir --interpret --inputs x=1,2,3,4 y=empty:4 --scalar rows=2 n=2 "
      "--watch %5@r=1",
      "Shows a value of the second row as it is computed.");
  run.computes();
  run.action([run_options] { return run_kernel(*run_options); });
}

}  // namespace sporkle::app
