// Attention of a few new positions over a cache: rows of keys and values are read once, as memory gives them.
#include <limits>

#include "tensor/kernels/attention.h"

namespace sporkle::tensor {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;

KernelCall cached_attention_call(const AttentionShape& shape, double scale) {
  constexpr int kLanes = 4;  // of sums over keys, as in kernels/attention.cc
  KernelCall call;
  call.key = typed_key("cached_attention", shape.dtype);
  call.define = [type = shape.dtype](KernelBuilder& k) {
    const Buffer qkv = k.input(type, "qkv"), place = k.input(DType::i32, "position");
    const Buffer keys = k.in_out(type, "keys"), values = k.in_out(type, "values");
    const Buffer result = k.output(type, "result");
    const Expr rows = k.size("rows"), heads = k.size("heads"), kv_heads = k.size("kv_heads");
    const Expr length = k.size("length"), capacity = k.size("capacity"), size = k.size("size");
    const Expr factor = k.scalar(type, "scale"), position = cast(DType::i64, place[Expr(0)]);
    const Expr width = (heads + kv_heads * 2) * size, sharing = heads / kv_heads, zero = dsl::constant(type, 0);
    k.range("t", rows * kv_heads, [&](Expr t) {
      const Expr kv_head = t % kv_heads, row = t / kv_heads, start = row * length * width;
      const Expr cache = t * capacity * size;  // of this head, in keys and in values
      const Buffer weights = k.scratch(type, "weights", capacity), query = k.scratch(type, "query", size);
      const Buffer statistics = k.scratch(type, "statistics", Expr(1));
      k.range("new", length, [&](Expr i) {
        const Expr from = start + i * width + (heads + kv_head) * size;
        k.range("copy_c", size, [&](Expr c) {
          keys.store(cache + c * capacity + position + i, qkv[from + c]);
          values.store(cache + (position + i) * size + c, qkv[from + kv_heads * size + c]);
        });
      });
      k.serial("query", length * sharing, [&](Expr number) {
        const Expr i = number / sharing, head = kv_head * sharing + number % sharing, seen = position + i + 1;
        k.range("c", size, [&](Expr c) { query.store(c, qkv[start + i * width + head * size + c] * factor); });
        k.range("n", seen, [&](Expr n) {
          weights.store(n, k.fma_chain("k", size, zero,
                                       [&](Expr c) { return std::pair(query[c], keys[cache + c * capacity + n]); }));
        });
        const Expr top =
            k.reduce("a", ir::Combine::max, kLanes, seen, dsl::constant(type, -std::numeric_limits<double>::infinity()),
                     [&](Expr n) { return weights[n]; });
        statistics.store(Expr(0), top);
        k.range("exp_n", seen, [&](Expr n) { weights.store(n, exp(weights[n] - statistics[Expr(0)])); });
        statistics.store(Expr(0), dsl::constant(type, 1) / k.reduce("b", ir::Combine::add, kLanes, seen, zero,
                                                                    [&](Expr n) { return weights[n]; }));
        k.range("result_c", size, [&](Expr c) {
          const Expr mixed =
              k.fma_chain("k", seen, zero, [&](Expr n) { return std::pair(weights[n], values[cache + n * size + c]); });
          result.store(((row * length + i) * heads + head) * size + c, mixed * statistics[Expr(0)]);
        });
      });
    });
  };
  call.schedule = "t:thread c:vec n:vecx4 exp_n:vec result_c:vecx4 k:unroll4";
  const AttentionShape& s = shape;
  call.results = {{s.dtype, s.result_shape()}};
  for (const int64_t value : {s.rows, s.heads, s.kv_heads, s.queries, s.keys, s.size})
    call.scalars.push_back(scalar_bits(value));
  call.scalars.push_back(scalar_bits(s.dtype, scale));
  return call;
}

}  // namespace sporkle::tensor
