// The kernel language: a kernel is a C++ lambda over expressions, traced once to IR.
//
//   ir::Kernel saxpy = dsl::trace("saxpy", [](dsl::KernelBuilder& k) {
//     dsl::Expr n = k.size("n"), a = k.scalar(ir::DType::f32, "a");
//     dsl::Buffer x = k.input(ir::DType::f32, "x"), y = k.in_out(ir::DType::f32, "y");
//     k.range("i", n, [&](dsl::Expr i) { y.store(i, fma(a, x[i], y[i])); });
//   });
//
// Loops are combinators; shapes are run-time scalars. How the loops run (threads, vectors, unrolling) is a schedule
// given apart (lower/schedule.h) that names the ranges. While a lambda is traced, expressions combine through the
// tracing thread's current KernelBuilder; an Expr must not outlive the trace.
#pragma once

#include <functional>
#include <source_location>
#include <string_view>
#include <utility>

#include "ir/builder.h"
#include "ir/kernel.h"

namespace sporkle::dsl {

class Expr {
 public:
  Expr() = default;
  explicit Expr(const ir::Node* node) : node_(node) {}
  // Whole numbers take part in index arithmetic as i64 constants, and in other arithmetic as the other side's type.
  Expr(int64_t number);
  Expr(int number) : Expr(static_cast<int64_t>(number)) {}
  const ir::Node* node() const { return node_; }
  ir::DType type() const { return node_->type; }

 private:
  const ir::Node* node_ = nullptr;
};

// A constant of a type.
Expr constant(ir::DType type, double number);

Expr operator+(Expr a, Expr b);
Expr operator-(Expr a, Expr b);
Expr operator*(Expr a, Expr b);
Expr operator/(Expr a, Expr b);
Expr operator%(Expr a, Expr b);
Expr operator-(Expr a);
Expr operator<(Expr a, Expr b);
Expr operator<=(Expr a, Expr b);
Expr operator>(Expr a, Expr b);
Expr operator>=(Expr a, Expr b);
Expr operator==(Expr a, Expr b);
Expr operator!=(Expr a, Expr b);
Expr operator&(Expr a, Expr b);  // bits of integers, "and" of booleans
Expr operator|(Expr a, Expr b);
Expr operator^(Expr a, Expr b);
Expr operator<<(Expr a, Expr b);
Expr operator>>(Expr a, Expr b);
Expr fma(Expr a, Expr b, Expr c);  // a * b + c, rounded once
Expr dot(Expr a, Expr b, Expr c);  // of packed numbers; see ir::Op::dot
Expr min(Expr a, Expr b);
Expr max(Expr a, Expr b);
Expr sqrt(Expr a);
Expr abs(Expr a);
Expr exp(Expr a);
Expr log(Expr a);
Expr tanh(Expr a);
Expr sin(Expr a);
Expr cos(Expr a);
Expr erf(Expr a);
Expr rsqrt(Expr a);
Expr select(Expr condition, Expr a, Expr b);
Expr cast(ir::DType type, Expr a);
Expr bitcast(ir::DType type, Expr a);

class Buffer {
 public:
  explicit Buffer(const ir::Node* node) : node_(node) {}
  Expr operator[](Expr index) const { return load(index); }
  Expr load(Expr index) const;
  // Reads only where `mask` holds; elsewhere the value is `otherwise`.
  Expr load(Expr index, Expr mask, Expr otherwise) const;
  void store(Expr index, Expr value) const;
  void store(Expr index, Expr value, Expr mask) const;
  const ir::Node* node() const { return node_; }

 private:
  const ir::Node* node_;
};

class KernelBuilder {
 public:
  Buffer input(ir::DType type, std::string_view name);
  Buffer output(ir::DType type, std::string_view name);
  Buffer in_out(ir::DType type, std::string_view name);
  Expr scalar(ir::DType type, std::string_view name);
  Expr size(std::string_view name) { return scalar(ir::DType::i64, name); }
  // Memory private to one iteration of the outermost loop; `count` is made of scalars and constants.
  Buffer scratch(ir::DType type, std::string_view name, Expr count);

  // Iterations are independent of each other.
  void range(std::string_view name, Expr extent, const std::function<void(Expr)>& body);
  // The invocations of a GPU's workgroup (ir::RangeKind::invocation).
  void invocations(std::string_view name, int64_t count, const std::function<void(Expr)>& body);
  // Iterations happen in order.
  void serial(std::string_view name, Expr extent, const std::function<void(Expr)>& body);

  // acc = init, then acc = combine(acc, value(k)) for k in order; with lanes = 16, sixteen partial results (element k
  // goes to lane k % 16) joined by a fixed tree. Either order depends on the extent alone.
  Expr reduce(std::string_view name, ir::Combine combine, int lanes, Expr extent, Expr init,
              const std::function<Expr(Expr)>& value);
  Expr sum(std::string_view name, Expr extent, ir::DType type, const std::function<Expr(Expr)>& value);
  Expr maximum(std::string_view name, Expr extent, ir::DType type, const std::function<Expr(Expr)>& value);
  // acc = init, then acc = fma(a(k), b(k), acc): the unbroken chain that GEMM is made of.
  Expr fma_chain(std::string_view name, Expr extent, Expr init,
                 const std::function<std::pair<Expr, Expr>(Expr)>& factors);

  // acc = init, then acc = dot(a(k), b(k), acc), of packed numbers (ir::Op::dot).
  Expr dot_chain(std::string_view name, Expr extent, Expr init,
                 const std::function<std::pair<Expr, Expr>(Expr)>& factors);

  // For code that makes IR directly (tensor's fuser).
  ir::Builder& ir() { return builder_; }
  void append(const ir::Node* statement) { statements_.back().push_back(statement); }

 private:
  friend ir::Kernel trace(std::string_view, const std::function<void(KernelBuilder&)>&, ir::Numerics,
                          std::source_location);
  explicit KernelBuilder(ir::Kernel& kernel) : kernel_(&kernel), builder_(*kernel.context) {
    statements_.emplace_back();
  }
  Buffer add_buffer(ir::DType type, std::string_view name, ir::Access access);
  void add_loop(ir::Op kind, ir::RangeKind range_kind, std::string_view name, Expr extent,
                const std::function<void(Expr)>& body);

  ir::Kernel* kernel_;
  ir::Builder builder_;
  std::vector<std::vector<const ir::Node*>> statements_;  // of the open loops, outermost first
};

// Runs `define` once and returns what it described. `source` is where profiles say that the kernel comes from.
ir::Kernel trace(std::string_view name, const std::function<void(KernelBuilder&)>& define,
                 ir::Numerics numerics = ir::Numerics::strict,
                 std::source_location source = std::source_location::current());

}  // namespace sporkle::dsl
