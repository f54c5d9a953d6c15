#include "dsl/kernel.h"

#include <cassert>
#include <limits>

namespace sporkle::dsl {
namespace {

// Expressions combine through the builder of the trace that this thread is in; traces may nest.
thread_local KernelBuilder* current = nullptr;

ir::Builder& builder() {
  assert(current && "expressions exist only while a kernel is traced");
  return current->ir();
}

// A whole number beside an operand of another type becomes a constant of that type.
const ir::Node* match(Expr a, Expr other) {
  const ir::Node* node = a.node();
  if (node->type == other.type() || node->type != ir::DType::i64 || !node->is_constant()) return node;
  return ir::is_float(other.type())
             ? builder().constant(other.type(), static_cast<double>(node->value))
             : builder().bits(other.type(), ir::constant_bits_integer(other.type(), node->value));
}

Expr binary(ir::Op op, Expr a, Expr b) { return Expr(builder().binary(op, match(a, b), match(b, a))); }
Expr unary(ir::Op op, Expr a) { return Expr(builder().unary(op, a.node())); }

}  // namespace

Expr::Expr(int64_t number) : node_(builder().integer(number)) {}
Expr constant(ir::DType type, double number) { return Expr(builder().constant(type, number)); }

Expr operator+(Expr a, Expr b) { return binary(ir::Op::add, a, b); }
Expr operator-(Expr a, Expr b) { return binary(ir::Op::sub, a, b); }
Expr operator*(Expr a, Expr b) { return binary(ir::Op::mul, a, b); }
Expr operator/(Expr a, Expr b) { return binary(ir::Op::div, a, b); }
Expr operator%(Expr a, Expr b) { return binary(ir::Op::mod, a, b); }
Expr operator-(Expr a) { return unary(ir::Op::neg, a); }
Expr operator<(Expr a, Expr b) { return binary(ir::Op::less, a, b); }
Expr operator<=(Expr a, Expr b) { return binary(ir::Op::less_equal, a, b); }
Expr operator>(Expr a, Expr b) { return binary(ir::Op::less, b, a); }
Expr operator>=(Expr a, Expr b) { return binary(ir::Op::less_equal, b, a); }
Expr operator==(Expr a, Expr b) { return binary(ir::Op::equal, a, b); }
Expr operator!=(Expr a, Expr b) { return binary(ir::Op::not_equal, a, b); }
Expr operator&(Expr a, Expr b) { return binary(ir::Op::bit_and, a, b); }
Expr operator|(Expr a, Expr b) { return binary(ir::Op::bit_or, a, b); }
Expr operator^(Expr a, Expr b) { return binary(ir::Op::bit_xor, a, b); }
Expr operator<<(Expr a, Expr b) { return binary(ir::Op::shl, a, b); }
Expr operator>>(Expr a, Expr b) { return binary(ir::Op::shr, a, b); }
Expr fma(Expr a, Expr b, Expr c) { return Expr(builder().fma(a.node(), match(b, a), match(c, a))); }
Expr dot(Expr a, Expr b, Expr c) { return Expr(builder().dot(a.node(), b.node(), c.node())); }
Expr min(Expr a, Expr b) { return binary(ir::Op::min, a, b); }
Expr max(Expr a, Expr b) { return binary(ir::Op::max, a, b); }
Expr sqrt(Expr a) { return unary(ir::Op::sqrt, a); }
Expr abs(Expr a) { return unary(ir::Op::abs, a); }
Expr exp(Expr a) { return unary(ir::Op::exp, a); }
Expr log(Expr a) { return unary(ir::Op::log, a); }
Expr tanh(Expr a) { return unary(ir::Op::tanh, a); }
Expr sin(Expr a) { return unary(ir::Op::sin, a); }
Expr cos(Expr a) { return unary(ir::Op::cos, a); }
Expr erf(Expr a) { return unary(ir::Op::erf, a); }
Expr rsqrt(Expr a) { return unary(ir::Op::rsqrt, a); }
Expr select(Expr condition, Expr a, Expr b) {
  return Expr(builder().select(condition.node(), match(a, b), match(b, a)));
}
Expr cast(ir::DType type, Expr a) { return Expr(builder().cast(type, a.node())); }
Expr bitcast(ir::DType type, Expr a) { return Expr(builder().bitcast(type, a.node())); }

Expr Buffer::load(Expr index) const { return Expr(builder().load(node_, index.node())); }
Expr Buffer::load(Expr index, Expr mask, Expr otherwise) const {
  const ir::Node* value = otherwise.node();
  if (value->type != node_->type) {
    assert(value->is_constant());
    value = builder().constant(node_->type, ir::constant_number(value));
  }
  return Expr(builder().load(node_, index.node(), mask.node(), value));
}
void Buffer::store(Expr index, Expr value) const {
  current->append(builder().store(node_, index.node(), value.node()));
}
void Buffer::store(Expr index, Expr value, Expr mask) const {
  current->append(builder().store(node_, index.node(), value.node(), mask.node()));
}

Buffer KernelBuilder::add_buffer(ir::DType type, std::string_view name, ir::Access access) {
  kernel_->buffers.push_back({std::string(name), type, access});
  return Buffer(builder_.buffer(type, static_cast<int>(kernel_->buffers.size()) - 1, name));
}
Buffer KernelBuilder::input(ir::DType type, std::string_view name) { return add_buffer(type, name, ir::Access::read); }
Buffer KernelBuilder::output(ir::DType type, std::string_view name) {
  return add_buffer(type, name, ir::Access::write);
}
Buffer KernelBuilder::in_out(ir::DType type, std::string_view name) {
  return add_buffer(type, name, ir::Access::read_write);
}
Expr KernelBuilder::scalar(ir::DType type, std::string_view name) {
  kernel_->scalars.push_back({std::string(name), type});
  return Expr(builder_.scalar(type, static_cast<int>(kernel_->scalars.size()) - 1, name));
}
Buffer KernelBuilder::scratch(ir::DType type, std::string_view name, Expr count) {
  return Buffer(builder_.scratch(type, count.node(), name));
}

void KernelBuilder::add_loop(ir::Op kind, ir::RangeKind range_kind, std::string_view name, Expr extent,
                             const std::function<void(Expr)>& body) {
  const ir::Node* range = builder_.range(extent.node(), name, range_kind);
  statements_.emplace_back();
  body(Expr(range));
  const std::vector<const ir::Node*> inner = std::move(statements_.back());
  statements_.pop_back();
  append(builder_.loop(kind, range, inner));
}
void KernelBuilder::range(std::string_view name, Expr extent, const std::function<void(Expr)>& body) {
  add_loop(ir::Op::loop, ir::RangeKind::serial, name, extent, body);
}
void KernelBuilder::serial(std::string_view name, Expr extent, const std::function<void(Expr)>& body) {
  add_loop(ir::Op::serial_loop, ir::RangeKind::serial, name, extent, body);
}
void KernelBuilder::invocations(std::string_view name, int64_t count, const std::function<void(Expr)>& body) {
  add_loop(ir::Op::loop, ir::RangeKind::invocation, name, Expr(count), body);
}

Expr KernelBuilder::reduce(std::string_view name, ir::Combine combine, int lanes, Expr extent, Expr init,
                           const std::function<Expr(Expr)>& value) {
  const ir::Node* range = builder_.range(extent.node(), name);
  return Expr(builder_.reduce(combine, lanes, init.node(), range, value(Expr(range)).node()));
}
Expr KernelBuilder::sum(std::string_view name, Expr extent, ir::DType type, const std::function<Expr(Expr)>& value) {
  return reduce(name, ir::Combine::add, 16, extent, constant(type, 0.0), value);
}
Expr KernelBuilder::maximum(std::string_view name, Expr extent, ir::DType type,
                            const std::function<Expr(Expr)>& value) {
  return reduce(name, ir::Combine::max, 16, extent, constant(type, -std::numeric_limits<double>::infinity()), value);
}
Expr KernelBuilder::fma_chain(std::string_view name, Expr extent, Expr init,
                              const std::function<std::pair<Expr, Expr>(Expr)>& factors) {
  const ir::Node* range = builder_.range(extent.node(), name);
  const auto [a, b] = factors(Expr(range));
  return Expr(builder_.reduce(ir::Combine::fma, 1, init.node(), range, a.node(), b.node()));
}
Expr KernelBuilder::dot_chain(std::string_view name, Expr extent, Expr init,
                              const std::function<std::pair<Expr, Expr>(Expr)>& factors) {
  const ir::Node* range = builder_.range(extent.node(), name);
  const auto [a, b] = factors(Expr(range));
  return Expr(builder_.reduce(ir::Combine::dot, 1, init.node(), range, a.node(), b.node()));
}

ir::Kernel trace(std::string_view name, const std::function<void(KernelBuilder&)>& define, ir::Numerics numerics,
                 std::source_location source) {
  ir::Kernel kernel;
  kernel.context = std::make_shared<ir::Context>();
  kernel.name = name;
  kernel.numerics = numerics;
  kernel.source = source;
  KernelBuilder tracer(kernel);
  KernelBuilder* const outer = std::exchange(current, &tracer);
  define(tracer);
  current = outer;
  kernel.body = tracer.builder_.block(tracer.statements_.front());
  return kernel;
}

}  // namespace sporkle::dsl
