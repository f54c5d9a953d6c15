// PyTorch's side of `sporkle bench allreduce`: one process of a Gloo group, which understands the lines `check` and
// `run` of allreduce_worker.h. Arguments: number, processes, elements, a folder for the processes to meet in.
#pragma once

#include <string_view>

namespace sporkle::app {

inline constexpr std::string_view kGlooScript = R"python(
import sys, time
number, processes, count, folder = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
try:
    import torch
    import torch.distributed as dist
    if not dist.is_gloo_available():
        raise ImportError("built without Gloo")
except ImportError as error:
    print(f"error not found: {sys.executable} has no torch with Gloo ({error}); "
          "name a Python that has in SPORKLE_PYTHON", flush=True)
    sys.exit(0)
torch.set_num_threads(1)


def elements(process):
    bits = (torch.arange(count, dtype=torch.int64) * 2654435761 + process * 1013904223) & 0xFFFFFFFF
    return (bits >> 8).to(torch.float32) * 2.0**-24 - 0.5


x = elements(number)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=processes)
y = x.clone()
print(f"ready PyTorch {torch.__version__}, gloo", flush=True)
for line in sys.stdin:
    words = line.split()
    if words[0] == "check":
        y.copy_(x)
        dist.all_reduce(y)
        expected = elements(0).double()
        for process in range(1, processes):
            expected += elements(process).double()
        wrong = ((y.double() - expected).abs() > 1e-6 * processes).sum().item()
        print("ok" if wrong == 0 else f"error {wrong} elements are wrong", flush=True)
    elif words[0] == "run":
        y.copy_(x)
        dist.all_reduce(y)
        start = time.perf_counter()
        for _ in range(int(words[1])):
            dist.all_reduce(y)
        print((time.perf_counter() - start) / int(words[1]), flush=True)
)python";

}  // namespace sporkle::app
