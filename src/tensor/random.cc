#include "tensor/random.h"

#include "dsl/kernel.h"
#include "tensor/context.h"
#include "tensor/graph.h"

namespace sporkle::tensor {
namespace {

constexpr uint32_t kMultiplier = 0xD256D193;
constexpr uint32_t kWeyl = 0x9E3779B9;
constexpr int kRounds = 10;

// SplitMix64's finaliser: a bijection that spreads neighbouring numbers over all bits.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

Tensor random(Op op, Context& context, const Shape& shape, RandomKey key, DType type) {
  if (Status status = check_shape(shape); !status.ok()) return error_tensor(&context, status);
  if (!ir::is_float(type)) return error_tensor(&context, invalid_argument("random numbers are f32 or f64"));
  if (element_count(shape) > int64_t{1} << 32)
    return error_tensor(&context, invalid_argument("a random tensor has at most 2^32 elements, not " +
                                                   std::to_string(element_count(shape))));
  NodeRef node = make_node(op, context, type, shape, {});
  node->number = stream_bits(key);
  return Tensor(std::move(node));
}

}  // namespace

uint64_t stream_bits(RandomKey key) {
  constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u;
  return mix(mix(mix(key.seed + kGolden) ^ (key.stream + 2 * kGolden)) ^ (key.step + 3 * kGolden));
}

dsl::Expr uniform_element(dsl::Expr number, dsl::Expr counter_high, dsl::Expr philox_key, DType type) {
  dsl::Expr low = dsl::cast(DType::u32, number), high = counter_high;
  philox2x32(&low, &high, philox_key);
  return dsl::cast(type, dsl::cast(DType::i32, low >> 8)) * dsl::constant(type, 0x1p-24);
}

Philox philox2x32(uint32_t low, uint32_t high, uint32_t key) {
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product = static_cast<uint64_t>(kMultiplier) * low;
    low = static_cast<uint32_t>(product >> 32) ^ key ^ high;
    high = static_cast<uint32_t>(product);
    key += kWeyl;
  }
  return {low, high};
}

void philox2x32(dsl::Expr* low, dsl::Expr* high, dsl::Expr key) {
  for (int round = 0; round < kRounds; ++round) {
    const dsl::Expr product = dsl::cast(DType::u64, *low) * int64_t{kMultiplier};
    *low = dsl::cast(DType::u32, product >> 32) ^ key ^ *high;
    *high = dsl::cast(DType::u32, product);
    key = key + int64_t{kWeyl};
  }
}

Tensor uniform(Context& context, const Shape& shape, RandomKey key, DType type) {
  return random(Op::uniform, context, shape, key, type);
}
Tensor normal(Context& context, const Shape& shape, RandomKey key, DType type) {
  return random(Op::normal, context, shape, key, type);
}

Tensor dropout(const Operand& operand, double probability, RandomKey key) {
  const SourceScope scope(operand.source());
  const Tensor& x = operand;
  if (!x.ok() || probability == 0.0) return x;
  if (!(probability > 0.0 && probability < 1.0))
    return error_tensor(&x.context(),
                        invalid_argument("dropout: the probability must be at least 0 and less than 1, not " +
                                         std::to_string(probability)));
  const Tensor random = uniform(x.context(), x.shape(), key, x.dtype());
  const Tensor kept = less_equal(full_like(random, probability), random);
  return where(kept, x * (1.0 / (1.0 - probability)), full_like(x, 0.0));
}

}  // namespace sporkle::tensor
