// A schedule: how the named ranges of a kernel run. Plain data with a text form, one item a word, applied in order:
//
//   i:thread       the loop's iterations are spread over threads (the kernel's outermost loop; once)
//   i:thread1024   the same in blocks of 1024 iterations; later items for i apply inside a block
//   i:vec16        16 iterations at once as a vector, the rest under a mask
//   n:vec16x4      four such vectors at once where they fit
//   m:tile6        6 iterations jammed into one, then 4, 2, 1 for what is left
//   l:pack4        an invocation of a GPU takes the 4 iterations that this innermost loop always has at once, and reads
//                  and writes what lies side by side as a vector, at a multiple of its size if the index shows it: then
//                  bindings must begin at such multiples as well (nothing elsewhere)
//   n:stream       whole vectors that this loop stores pass the caches on a CPU: for results so large that they would
//                  be gone before they are read. The caller sees to it that each lies at a multiple of its size
//   k:unroll4      a reduction's loop body four times per jump
//   m:matrix128    a workgroup's matrix units take 128 iterations at once (`fast` products on GPUs; nothing elsewhere)
//   r:group64      64 invocations of a GPU's workgroup share each iteration of the outermost loop: the lanes of its
//                  reductions and the iterations of its inner loops (nothing elsewhere)
//   i:workgroup256 workgroups of a GPU take 256 iterations at once, where invocations share none (128 where nothing is
//                  said; nothing elsewhere)
//
// No item changes the bits of a result. Names that the kernel lacks are an error. Example: "t:thread m:tile6
// n:vec16x4".
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace sporkle::lower {

struct ScheduleItem {
  enum class Kind { thread, vector, tile, unroll, matrix, group, pack, stream, workgroup };
  std::string range;
  Kind kind;
  int size = 0;   // block (0: single iterations), vector width, tile, unroll factor, or invocations
  int count = 1;  // vectors at once
};

struct Schedule {
  std::vector<ScheduleItem> items;

  bool has(ScheduleItem::Kind kind) const;

  static Result<Schedule> parse(std::string_view text);
  std::string text() const;
};

}  // namespace sporkle::lower
