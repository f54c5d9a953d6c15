// The text form of a kernel; print and parse are inverses (up to node numbering). Thread-safe.
//
//   kernel "saxpy" strict
//   buffer x@0 f32 read
//   buffer y@1 f32 read_write
//   scalar n$0 i64
//   scalar a$1 f32
//   i#0 = range serial n$0
//   loop i#0
//     %0 = load f32 x@0 i#0
//     %1 = load f32 y@1 i#0
//     %2 = fma f32 a$1 %0 %1
//     store y@1 i#0 %2
//
// One node a line, defined where it is first used, then known everywhere. A name (in quotes where it is no plain word)
// is followed by what it is and its number: @ buffer, $ scalar, # range, ! scratch; other values are %number. Constants
// stand in place: 16 is an i64, f32:0.5 and u8:255 name their type, f32:0x7fc00000 gives the bits of a float. Two
// spaces a loop or block. A reduction reads: %3 = reduce f32 add lanes=16 INIT RANGE VALUE. Lines that begin with //
// are comments.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <unordered_map>

#include "base/status.h"
#include "ir/kernel.h"

namespace sporkle::ir {

// Deterministic: equal kernels print equal text whatever order they were built in, so the text is what caches hash.
std::string print(const Kernel& kernel);

// Parses and verifies. Errors carry the line and what was expected. Bounded: input over 16 MiB or nested deeper than
// 256 is refused.
Result<Kernel> parse(std::string_view text);

// A kernel with where its nodes stand in its text, for debuggers.
struct ParsedText {
  Kernel kernel;
  std::unordered_map<const Node*, int> lines;  // from 1; of nodes that several lines define, the first
  std::map<std::string, const Node*> names;    // "%4", "i#0", "x@1": of every definition and argument
};
Result<ParsedText> parse_with_lines(std::string_view text);

}  // namespace sporkle::ir
