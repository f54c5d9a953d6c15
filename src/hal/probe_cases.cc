#include "hal/probe_cases.h"

#include <bit>
#include <cstring>
#include <functional>

#include "codegen/compile.h"
#include "dsl/kernel.h"
#include "hal/host/float_environment.h"
#include "ir/interpreter.h"

namespace sporkle::hal {
namespace {

using ir::DType;
using Case = ProbeCase;

// xorshift64*: the same operands everywhere.
class Random {
 public:
  uint64_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1d;
  }

 private:
  uint64_t state_ = 0x9e3779b97f4a7c15;
};

uint64_t bits_of(DType type, double value) {
  return type == DType::f64 ? std::bit_cast<uint64_t>(value) : std::bit_cast<uint32_t>(static_cast<float>(value));
}

// Where floating-point arithmetic has its corners.
std::vector<uint64_t> special_floats(DType type) {
  const bool wide = type == DType::f64;
  const int exponent_shift = wide ? 52 : 23;
  const uint64_t sign = uint64_t{1} << (wide ? 63 : 31);
  const uint64_t smallest_normal = uint64_t{1} << exponent_shift;
  const uint64_t infinity = (wide ? uint64_t{0x7ff} : uint64_t{0xff}) << exponent_shift;
  std::vector<uint64_t> values = {0,
                                  1,
                                  2,
                                  smallest_normal / 2,
                                  smallest_normal - 1,
                                  smallest_normal,
                                  infinity,
                                  infinity - 1,
                                  infinity | smallest_normal / 2};
  for (const double value : {1.0, 1.5, 3.0, 1.0 / 3, 0.1, 0.5, 10.0, 88.5, 103.0, 708.0, 16777217.0, 65504.0, 65520.0,
                             6e-8, 2147483648.0, 9.3e18, 3.14159265358979})
    values.push_back(bits_of(type, value));
  values.push_back(bits_of(type, 1.0) + 1);
  values.push_back(bits_of(type, 1.0) - 1);
  const size_t positive = values.size();
  for (size_t i = 0; i < positive; ++i) values.push_back(values[i] | sign);
  return values;
}

// A number whose exponent is not far from that of 1, so that operations on two of them stay in range.
uint64_t moderate_float(DType type, Random& random) {
  const uint64_t bits = random.next();
  if (type == DType::f64) return (bits & 0x800fffffffffffff) | (uint64_t{1023 - 20 + (bits >> 52 & 0x7ff) % 40} << 52);
  return (bits & 0x807fffff) | ((127 - 20 + (bits >> 32) % 40) << 23);
}

double value_of(DType type, uint64_t bits) {
  return type == DType::f64 ? std::bit_cast<double>(bits)
                            : static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(bits)));
}

// Every pair of corners, then moderate numbers, then any bits; for a third operand also what nearly cancels a product.
std::vector<std::vector<uint64_t>> float_operands(DType type, int count) {
  constexpr int kRandom = 6000;
  const uint64_t mask = type == DType::f64 ? UINT64_MAX : UINT32_MAX;
  Random random;
  std::vector<std::vector<uint64_t>> operands(static_cast<size_t>(count));
  const std::vector<uint64_t> special = special_floats(type);
  for (const uint64_t a : special) {
    for (const uint64_t b : special) {
      const uint64_t all[] = {a, b, special[random.next() % special.size()]};
      for (size_t i = 0; i < operands.size(); ++i) operands[i].push_back(all[i]);
    }
  }
  for (int k = 0; k < kRandom; ++k) {
    const uint64_t a = moderate_float(type, random), b = moderate_float(type, random);
    uint64_t c = moderate_float(type, random);
    if (k % 3 == 0) c = bits_of(type, -value_of(type, a) * value_of(type, b)) ^ (k % 2 ? random.next() & 3 : 0);
    const uint64_t moderate[] = {a, b, c}, any[] = {random.next() & mask, random.next() & mask, random.next() & mask};
    for (size_t i = 0; i < operands.size(); ++i) operands[i].push_back(k % 4 == 3 ? any[i] : moderate[i]);
  }
  return operands;
}

std::vector<std::vector<uint64_t>> integer_operands(DType type, int count) {
  const int width = 8 * ir::dtype_size(type);
  const uint64_t mask = width == 64 ? UINT64_MAX : (uint64_t{1} << width) - 1;
  const uint64_t special[] = {0, 1, 2, 3, 7, mask, mask - 1, mask >> 1, (mask >> 1) + 1, 31, 32, 33, 63, 64};
  Random random;
  std::vector<std::vector<uint64_t>> operands(static_cast<size_t>(count));
  for (const uint64_t a : special) {
    for (const uint64_t b : special) {
      const uint64_t all[] = {a, b, a ^ b};
      for (size_t i = 0; i < operands.size(); ++i) operands[i].push_back(all[i] & mask);
    }
  }
  for (int k = 0; k < 500; ++k)
    for (std::vector<uint64_t>& operand : operands) operand.push_back((random.next() & mask) >> random.next() % 32);
  return operands;
}

using Operation = std::function<dsl::Expr(std::span<const dsl::Expr>)>;

Case elementwise(std::string name, DType type, DType result, int count, const Operation& operation) {
  Case c;
  c.name = std::move(name) + " " + std::string(ir::dtype_name(type));
  c.operand_type = type;
  c.result_type = result;
  c.operands = ir::is_float(type) ? float_operands(type, count) : integer_operands(type, count);
  c.results = c.operands[0].size();
  c.scalars = {c.results};
  c.kernel = dsl::trace("probe", [&](dsl::KernelBuilder& k) {
    const dsl::Expr n = k.size("n");
    std::vector<dsl::Buffer> inputs;
    for (int i = 0; i < count; ++i) inputs.push_back(k.input(type, std::string(1, static_cast<char>('a' + i))));
    const dsl::Buffer out = k.output(result, "out");
    k.range("i", n, [&](dsl::Expr i) {
      std::vector<dsl::Expr> values;
      for (const dsl::Buffer& input : inputs) values.push_back(input[i]);
      out.store(i, operation(values));
    });
  });
  return c;
}

// Two steps of a chain in an invocation's registers, as products of matrices are made of.
Case workgroup_fma_case(DType type) {
  Case c = elementwise("fma of a workgroup", type, type, 3, [](auto v) { return v[0]; });
  constexpr int64_t kLanes = 128;
  c.kernel = dsl::trace("probe", [&](dsl::KernelBuilder& k) {
    const dsl::Expr n = k.size("n");
    const dsl::Buffer x = k.input(type, "a"), y = k.input(type, "b"), z = k.input(type, "c"),
                      out = k.output(type, "out");
    k.range("tile", (n + (kLanes - 1)) / kLanes, [&](dsl::Expr tile) {
      const dsl::Buffer sum = k.scratch(type, "sum", kLanes);
      const auto at = [&](dsl::Expr lane) { return dsl::min(tile * kLanes + lane, n - 1); };
      k.invocations("begin", kLanes, [&](dsl::Expr lane) { sum.store(lane, z[at(lane)]); });
      k.serial("step", dsl::Expr(2), [&](dsl::Expr step) {
        k.invocations("add", kLanes, [&](dsl::Expr lane) {
          const dsl::Expr first = step == 0;
          const dsl::Expr a = x[at(lane)], b = y[at(lane)];
          sum.store(lane, fma(select(first, a, b), select(first, b, dsl::constant(type, 1.5)), sum[lane]));
        });
      });
      k.invocations("end", kLanes, [&](dsl::Expr lane) {
        const dsl::Expr i = tile * kLanes + lane;
        out.store(i, sum[lane], i < n);
      });
    });
  });
  return c;
}

// Rows summed in the IR's order, which a device must not change.
Case sum_case() {
  Case c = elementwise("sum", DType::f32, DType::f32, 1, [](auto v) { return v[0]; });
  constexpr size_t kColumns = 37;
  c.results = c.operands[0].size() / kColumns;
  c.scalars = {c.results, kColumns};
  c.kernel = dsl::trace("probe", [](dsl::KernelBuilder& k) {
    const dsl::Expr rows = k.size("rows"), columns = k.size("columns");
    const dsl::Buffer x = k.input(DType::f32, "x"), y = k.output(DType::f32, "y");
    k.range("r", rows, [&](dsl::Expr r) {
      y.store(r, k.sum("s", columns, DType::f32, [&](dsl::Expr s) { return x[r * columns + s]; }));
    });
  });
  return c;
}

std::vector<std::byte> packed(std::span<const uint64_t> elements, size_t size) {
  std::vector<std::byte> bytes(elements.size() * size);
  for (size_t i = 0; i < elements.size(); ++i) std::memcpy(bytes.data() + i * size, &elements[i], size);
  return bytes;
}

// All NaNs are alike: which one an operation gives varies between processors.
void canonicalize(DType type, std::span<std::byte> bytes) {
  const auto size = static_cast<size_t>(ir::dtype_size(type));
  uint64_t infinity = 0;
  if (type == DType::f64) infinity = 0x7ff0000000000000;
  if (type == DType::f32) infinity = 0x7f800000;
  if (type == DType::f16) infinity = 0x7c00;
  if (type == DType::bf16) infinity = 0x7f80;
  if (infinity == 0) return;
  const uint64_t magnitude = (uint64_t{1} << (8 * size - 1)) - 1, nan = infinity | (infinity & ~(infinity << 1)) >> 1;
  for (size_t at = 0; at < bytes.size(); at += size) {
    uint64_t value = 0;
    std::memcpy(&value, bytes.data() + at, size);
    if ((value & magnitude) > infinity) std::memcpy(bytes.data() + at, &nan, size);
  }
}

}  // namespace

std::vector<ProbeCase> all_probe_cases() {
  std::vector<Case> cases;
  const auto add = [&](Case c) { cases.push_back(std::move(c)); };
  for (const DType type : {DType::f32, DType::f64}) {
    add(elementwise("addition", type, type, 2, [](auto v) { return v[0] + v[1]; }));
    add(elementwise("multiplication", type, type, 2, [](auto v) { return v[0] * v[1]; }));
    add(elementwise("product and sum", type, type, 3, [](auto v) { return v[0] * v[1] + v[2]; }));
    add(probe_case("fma", type));
    add(probe_case("division", type));
    add(probe_case("square root", type));
    add(elementwise("minimum", type, type, 2, [](auto v) { return min(v[0], v[1]); }));
    add(elementwise("maximum", type, type, 2, [](auto v) { return max(v[0], v[1]); }));
    add(probe_case("comparison", type));
    add(elementwise("negation", type, type, 1, [](auto v) { return -v[0]; }));
    add(elementwise("absolute value", type, type, 1, [](auto v) { return abs(v[0]); }));
    add(elementwise("rounding to i32", type, DType::i32, 1, [](auto v) { return cast(DType::i32, v[0]); }));
  }
  add(probe_case("fma of a workgroup", DType::f32));
  add(probe_case("widening", DType::f32));
  add(sum_case());
  add(elementwise("exp", DType::f32, DType::f32, 1, [](auto v) { return exp(v[0]); }));
  add(elementwise("log", DType::f32, DType::f32, 1, [](auto v) { return log(v[0]); }));
  add(elementwise("tanh", DType::f32, DType::f32, 1, [](auto v) { return tanh(v[0]); }));
  add(elementwise("cos", DType::f32, DType::f32, 1, [](auto v) { return cos(v[0]); }));
  add(elementwise("erf", DType::f32, DType::f32, 1, [](auto v) { return erf(v[0]); }));
  add(elementwise("rsqrt", DType::f32, DType::f32, 1, [](auto v) { return rsqrt(v[0]); }));
  add(elementwise("sin", DType::f32, DType::f32, 1, [](auto v) { return sin(v[0]); }));
  add(elementwise("narrowing to f16", DType::f32, DType::f16, 1, [](auto v) { return cast(DType::f16, v[0]); }));
  add(elementwise("narrowing to bf16", DType::f32, DType::bf16, 1, [](auto v) { return cast(DType::bf16, v[0]); }));
  add(elementwise("narrowing to f32", DType::f64, DType::f32, 1, [](auto v) { return cast(DType::f32, v[0]); }));
  for (const DType type : {DType::i32, DType::i64, DType::u32}) {
    add(elementwise("integer division", type, type, 2, [](auto v) { return v[0] / v[1]; }));
    add(elementwise("remainder", type, type, 2, [](auto v) { return v[0] % v[1]; }));
    add(elementwise("integer multiplication", type, type, 2, [](auto v) { return v[0] * v[1]; }));
    add(elementwise("shift", type, type, 2, [](auto v) { return (v[0] << v[1]) ^ (v[0] >> v[1]); }));
  }
  return cases;
}

ProbeCase probe_case(std::string_view operation, ir::DType type) {
  if (operation == "fma") return elementwise("fma", type, type, 3, [](auto v) { return fma(v[0], v[1], v[2]); });
  if (operation == "fma of a workgroup") return workgroup_fma_case(type);
  if (operation == "comparison") {
    // Each kind of comparison as a bit.
    return elementwise("comparison", type, DType::i32, 2, [](auto v) {
      const auto bit = [](dsl::Expr condition, int64_t value) {
        return select(condition, dsl::constant(DType::i32, static_cast<double>(value)), dsl::constant(DType::i32, 0.0));
      };
      return bit(v[0] < v[1], 1) | bit(v[0] <= v[1], 2) | bit(v[0] == v[1], 4) | bit(v[0] != v[1], 8);
    });
  }
  if (operation == "widening")
    return elementwise("widening", type, DType::f64, 1, [](auto v) { return cast(DType::f64, v[0]); });
  if (operation == "division") return elementwise("division", type, type, 2, [](auto v) { return v[0] / v[1]; });
  return elementwise("square root", type, type, 1, [](auto v) { return sqrt(v[0]); });
}

Result<std::vector<std::byte>> interpreted(const Case& c) {
  const StrictFloatEnvironment environment;
  const auto size = static_cast<size_t>(ir::dtype_size(c.operand_type));
  std::vector<std::vector<std::byte>> memory;
  for (const std::vector<uint64_t>& operand : c.operands) memory.push_back(packed(operand, size));
  memory.emplace_back(c.results * static_cast<size_t>(ir::dtype_size(c.result_type)));
  std::vector<ir::InterpreterBuffer> buffers;
  for (std::vector<std::byte>& bytes : memory) buffers.push_back({bytes.data(), bytes.size()});
  SPORKLE_RETURN_IF_ERROR(ir::interpret(c.kernel, buffers, c.scalars));
  canonicalize(c.result_type, memory.back());
  return std::move(memory.back());
}

Result<std::vector<std::byte>> computed(Device& device, const Case& c, std::span<const std::byte> code) {
  SPORKLE_ASSIGN_OR_RETURN(const ExecutableRef executable, device.load(code));
  const auto size = static_cast<size_t>(ir::dtype_size(c.operand_type));
  std::vector<Binding> bindings;
  for (const std::vector<uint64_t>& operand : c.operands) {
    const std::vector<std::byte> bytes = packed(operand, size);
    SPORKLE_ASSIGN_OR_RETURN(BufferRef buffer, device.allocate(bytes.size()));
    SPORKLE_RETURN_IF_ERROR(device.write({buffer}, bytes));
    bindings.push_back({std::move(buffer)});
  }
  std::vector<std::byte> result(c.results * static_cast<size_t>(ir::dtype_size(c.result_type)), std::byte{0xa5});
  SPORKLE_ASSIGN_OR_RETURN(const BufferRef out, device.allocate(result.size()));
  SPORKLE_RETURN_IF_ERROR(device.write({out}, result));
  bindings.push_back({out});
  CommandBuffer commands;
  commands.dispatch(executable, bindings, c.scalars);
  SPORKLE_RETURN_IF_ERROR(device.submit(commands));
  SPORKLE_RETURN_IF_ERROR(device.wait_idle());
  SPORKLE_RETURN_IF_ERROR(device.read({out}, result));
  canonicalize(c.result_type, result);
  return result;
}

Result<std::vector<std::byte>> compile(const Case& c, std::string_view target) {
  return codegen::compile(c.kernel, lower::Schedule(), target);
}

}  // namespace sporkle::hal
