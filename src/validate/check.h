// Checks of single calls of operations: results against the definition in f64 and against the interpreter's bits, and
// gradients against central differences.
//
// A Bench holds open devices and belongs to one thread at a time.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tensor/context.h"
#include "validate/operand.h"
#include "validate/subject.h"

namespace sporkle::validate {

// One context for each subject, and the reference's, which says what is right.
class Bench {
 public:
  static Result<std::unique_ptr<Bench>> open(std::span<const Subject> subjects);

  tensor::Context& reference() { return *reference_; }
  size_t size() const { return contexts_.size(); }
  tensor::Context& context(size_t subject) { return *contexts_[subject]; }
  hal::Device& device(size_t subject) { return contexts_[subject]->device(); }

 private:
  // Contexts go before what they run on.
  std::vector<std::shared_ptr<hal::Device>> devices_;
  std::vector<std::unique_ptr<cache::KernelCache>> kernels_;
  std::vector<std::unique_ptr<tensor::Context>> contexts_;
  std::unique_ptr<tensor::Context> reference_;
};

struct Failure {
  size_t subject = 0;
  std::string what;  // "result 0, element 17 [2, 3]: 1.5 (0x1.8p+0), exactly 1.25, 2 ULP off; the limit is 0"
};

struct Outcome {
  int64_t elements = 0;   // checked, of all subjects together
  int64_t schedules = 0;  // that the call ran under beside the usual one
  double worst_ulp = 0;
  double worst_share = 0;          // of the limit; where the limit is 0, 0 or infinite
  std::optional<Failure> failure;  // the first
  // A subject that lacks f64 and needs it for this call: neither right nor wrong.
  std::optional<Failure> untested;
};

struct DrawnCall {
  tensor::OpCall call;
  std::vector<Operand> operands;

  static DrawnCall draw(const tensor::OpRow& row, tensor::Draw& draw);
  std::string describe() const;
  int64_t elements() const;  // of the operands
};

// What a context computes for a call: the elements of all results, one after the other.
struct Values {
  std::vector<double> numbers;
  std::vector<tensor::Shape> shapes;
  std::string place(size_t element) const;  // "result 0, element 17 at [2, 3]"
};
Result<Values> compute(tensor::Context& context, const DrawnCall& drawn, const tensor::Apply& apply,
                       tensor::DType real);

// Whether a device refused a call because it has no f64, or not enough of it.
bool lacks_f64(const Status& status);

// Whether two numbers have the same bits; every NaN equals every other.
bool same_bits(double a, double b);
// "0.1 (0x1.99999ap-4)".
std::string exact_text(double value);

// The results of a call on every subject.
Outcome check_values(Bench& bench, const DrawnCall& drawn, tensor::DType type);
// The gradients of a call of f32 operands: the rule in f64 against central differences, and every subject's f32
// gradients against the rule's, and bit for bit against the interpreter's.
Outcome check_gradients(Bench& bench, const DrawnCall& drawn, tensor::Draw& draw);

}  // namespace sporkle::validate
