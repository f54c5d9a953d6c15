// A rival in a process of its own, which is told what to do line by line, in JSON, and shares its arrays' memory:
//
//   > {"do":"open","operation":"gemm","parameters":{"m":64,...},"threads":2,
//      "sets":[{"inputs":[{"name":"a","dtype":"f32","shape":[64,32],"path":"/proc/17/fd/5"},...],"outputs":[...]},...]}
//   < {"version":"OpenBLAS 0.3.21, kernel SkylakeX"}
//   > {"do":"run","repetitions":8}     run i takes set i % sets
//   < {"seconds":0.0125}               for all of them, by the process's own clock
//   > {"do":"store"}                   the outputs of every set's last run go to their arrays, if they are not there
//   < {}
//
// Any answer may be {"error":"why"} instead. The process ends when its input does. It is stopped (SIGSTOP) while others
// are measured, because idle threads of some libraries spin.
#pragma once

#include <memory>
#include <string>

#include "base/child_process.h"
#include "bench/case.h"

namespace sporkle::bench {

// Starts the program and opens `subject`'s problem in it. `child.error_log` is set here. unavailable when the program
// does not start or refuses, with its reason. `subject` must outlive the rival.
Result<std::unique_ptr<Rival>> start_process_rival(ChildOptions child, const Case& subject, int threads);

}  // namespace sporkle::bench
