// The kernels between the products of composed attention. Scores are [..., queries, keys], keys >= queries, and query i
// sees keys 0 .. i + keys - queries.
#include <limits>

#include "tensor/context.h"
#include "tensor/kernels/attention.h"

namespace sporkle::tensor {
namespace {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;

constexpr double kNever = -std::numeric_limits<double>::infinity();  // a score of weight 0
constexpr int kLanes = 4;                                            // of sums over keys, as in kernels/attention.cc
constexpr int kGroupLanes = 32;  // of maxima, whose order leaves no trace, and of sums where that may leave one
constexpr int64_t kPack = 4;

Shape rows_of(const Shape& scores) { return Shape(std::span(scores.begin(), scores.end() - 1)); }

std::vector<uint64_t> extents_of(const Shape& scores, int64_t unit) {
  const int64_t keys = scores[scores.rank() - 1], queries = scores[scores.rank() - 2];
  return {scalar_bits(element_count(rows_of(scores))), scalar_bits(queries), scalar_bits(keys / unit)};
}

// Rows of any length, an element at a time.
void define_weights(KernelBuilder& k, DType weights, DType type, int lanes) {
  const Buffer x = k.input(type, "scores"), y = k.output(weights, "weights");
  const Buffer logs = k.output(type, "logs"), shares = k.output(type, "shares");
  const Expr rows = k.size("rows"), queries = k.size("queries"), keys = k.size("keys");
  k.range("r", rows, [&](Expr r) {
    const Expr start = r * keys, seen = r % queries + (keys - queries) + 1;
    const Expr top = k.reduce("a", ir::Combine::max, kGroupLanes, seen, dsl::constant(type, kNever),
                              [&](Expr c) { return x[start + c]; });
    const Expr total = k.reduce("b", ir::Combine::add, lanes, seen, dsl::constant(type, 0),
                                [&](Expr c) { return exp(x[start + c] - top); });
    logs.store(r, log(total) + top);
    shares.store(r, dsl::constant(type, 1) / total);
    k.range("c", seen, [&](Expr c) { y.store(start + c, cast(weights, exp(x[start + c] - top))); });
    k.range("z", keys - seen, [&](Expr c) { y.store(start + seen + c, dsl::constant(weights, 0)); });
  });
}

// Rows of whole packs, each of which an invocation reads and writes at once.
void define_packed_weights(KernelBuilder& k, DType weights, DType type) {
  const Buffer x = k.input(type, "scores"), y = k.output(weights, "weights");
  const Buffer logs = k.output(type, "logs"), shares = k.output(type, "shares");
  const Expr rows = k.size("rows"), queries = k.size("queries"), packs = k.size("packs"), pack(kPack);
  const Expr keys = packs * pack;
  k.range("r", rows, [&](Expr r) {
    const Expr start = r * keys, seen = r % queries + (keys - queries) + 1, some = (seen + (pack - 1)) / pack;
    const auto score = [&](Expr c) { return select(c < seen, x[start + c], dsl::constant(type, kNever)); };
    const auto over_pack = [&](Expr p, const std::function<Expr(Expr)>& value,
                               const std::function<Expr(Expr, Expr)>& join) {
      return join(join(value(p * pack), value(p * pack + 1)), join(value(p * pack + 2), value(p * pack + 3)));
    };
    const Expr top = k.reduce("a", ir::Combine::max, kGroupLanes, some, dsl::constant(type, kNever), [&](Expr p) {
      return over_pack(p, score, [](Expr a, Expr b) { return dsl::max(a, b); });
    });
    const auto weight = [&](Expr c) { return exp(score(c) - top); };
    const Expr total = k.reduce("b", ir::Combine::add, kGroupLanes, some, dsl::constant(type, 0),
                                [&](Expr p) { return over_pack(p, weight, [](Expr a, Expr b) { return a + b; }); });
    logs.store(r, log(total) + top);
    shares.store(r, dsl::constant(type, 1) / total);
    k.range("c", some, [&](Expr p) {
      k.range("lane", pack, [&](Expr i) { y.store(start + p * pack + i, cast(weights, weight(p * pack + i))); });
    });
    k.range("z", packs - some, [&](Expr p) {
      k.range("lane", pack, [&](Expr i) { y.store(start + (some + p) * pack + i, dsl::constant(weights, 0)); });
    });
  });
}

}  // namespace

KernelCall attention_weights_call(Context& context, DType weights, DType type, const Shape& scores) {
  const bool fast = context.is_fast_gpu();
  const bool packed = fast && scores[scores.rank() - 1] % kPack == 0;
  KernelCall call;
  call.key = typed_key("attention_weights", type) + " " + std::string(ir::dtype_name(weights));
  call.key += packed ? " packed" : fast ? " fast" : "";
  call.define = [=](KernelBuilder& k) {
    if (packed)
      define_packed_weights(k, weights, type);
    else
      define_weights(k, weights, type, fast ? kGroupLanes : kLanes);
  };
  // A workgroup of one subgroup: joining more partial results took longer than it saved (on an H100).
  call.schedule = packed ? "r:thread r:group32 lane:pack4" : "r:thread r:group64 c:vec z:vec";
  call.results = {{weights, scores}, {type, rows_of(scores)}, {type, rows_of(scores)}};
  call.scalars = extents_of(scores, packed ? kPack : 1);
  return call;
}

KernelCall attention_slopes_call(DType results, DType type, const Shape& scores) {
  const int64_t unit = scores[scores.rank() - 1] % kPack == 0 ? kPack : 1;
  KernelCall call;
  call.key =
      typed_key("attention_slopes", type) + " " + std::string(ir::dtype_name(results)) + " by " + std::to_string(unit);
  call.define = [=](KernelBuilder& k) {
    const Buffer x = k.input(type, "scores"), logs = k.input(type, "logs"), change = k.input(type, "change");
    const Buffer means = k.input(type, "means");
    const Buffer weights = k.output(results, "weights"), slopes = k.output(results, "slopes");
    const Expr rows = k.size("rows"), queries = k.size("queries"), packs = k.size("packs"), keys = packs * unit;
    const Expr none = dsl::constant(type, 0);
    k.range("r", rows, [&](Expr r) {
      const Expr start = r * keys, seen = r % queries + (keys - queries) + 1;
      k.range("p", packs, [&](Expr p) {
        k.range("lane", Expr(unit), [&](Expr i) {
          const Expr c = p * unit + i, weight = exp(x[start + c] - logs[r]);
          weights.store(start + c, cast(results, select(c < seen, weight, none)));
          slopes.store(start + c, cast(results, select(c < seen, weight * (change[start + c] - means[r]), none)));
        });
      });
    });
  };
  call.schedule = unit > 1 ? "r:thread lane:pack4" : "r:thread";
  call.results = {{results, scores}, {results, scores}};
  call.scalars = extents_of(scores, unit);
  return call;
}

}  // namespace sporkle::tensor
