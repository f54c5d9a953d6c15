// Numerical validation: every operation, on every device, against its definition.
//
// For each operation, calls are drawn at random: shapes (empty, of one element, odd, prime, large), views (transposed,
// broadcast, sliced, strided, padded), element types, special values (NaN, infinities, denormals, zeros of both signs,
// the largest numbers). On every subject the results must lie within the operation's error limit of what the
// interpreter gets in f64, and have the bits of what it gets in the call's own type (`strict` numerics). Gradients'
// rules are compared with central differences in f64. Calls that take much part of a model's time are repeated under
// schedules drawn from those that tuning may choose.
//
// The calls depend on the seed alone, each on its number: one that fails is repeated by naming it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "validate/subject.h"

namespace sporkle::validate {

struct Options {
  std::vector<Subject> subjects;
  std::vector<std::string> operations;  // none: all
  uint64_t seed = 1;
  int64_t rounds = 12;               // calls of each operation
  std::optional<int64_t> only_call;  // this one alone
  int64_t scale = 1;                 // multiplies the elements that a call may have
  int workers = 2;                   // threads that go through calls
  // Called after each call with how many are done of how many; one thread at a time.
  std::function<void(int64_t done, int64_t total, const std::string& operation)> progress;
};

struct FailedCall {
  int64_t call = 0;
  std::string check;    // "values", "gradients" or "schedules"
  std::string subject;  // the device
  std::string operands;
  std::string what;
  int64_t elements = 0;
};

struct Report {
  std::string operation, group, types, limit;
  bool has_gradient = false;
  int64_t calls = 0, gradients = 0, schedules = 0;  // checked
  int64_t elements = 0;
  double worst_ulp = 0, worst_share = 0;  // see check.h
  int64_t failures = 0;
  std::optional<FailedCall> failure;  // the smallest
  int64_t untested = 0;               // checks that need f64 on a device that lacks it
  std::string untested_why;           // "vulkan:0: this device has no ..."
};

// One report for each operation, in the order of the table. The same for a seed, whatever the number of workers.
Result<std::vector<Report>> validate(const Options& options);

}  // namespace sporkle::validate
