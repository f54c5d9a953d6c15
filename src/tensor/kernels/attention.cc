// Attention on blocks of queries. A block's scores lie turned, [keys][block], in a thread's scratch memory: one lane a
// query, so that softmax needs no sums across lanes and every product is a register-tiled one as in kernels/matmul.cc.
// On the diagonal the keys go in groups, and each group meets only the queries that may see it.
//
// The size is part of the trace: a model has one, and loops of a known extent have no remainders. Neither the block nor
// the group shows in the bits: a chain that goes over keys which a query does not see adds zeros.
#include "tensor/kernels/attention.h"

#include <limits>

#include "tensor/context.h"

namespace sporkle::tensor {
namespace {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;

constexpr int kGroup = 16;                                           // queries, or keys on the diagonal
constexpr double kNever = -std::numeric_limits<double>::infinity();  // a score of weight 0
constexpr int kLanes = 4;                                            // of sums and maxima over keys

// Queries of a block: as many as a row of accumulators holds, fewer where there are fewer.
int block_size(int64_t queries) { return queries <= 16 ? 16 : queries <= 32 ? 32 : 64; }

// Rows beside vectors of queries, and beside vectors along the size.
struct Tiles {
  int rows, vectors, size_rows, size_vectors;
};

// The accumulators of a tile, a row and a broadcast element fit the vector registers: see kernels/matmul.cc. Powers of
// two, so that groups leave few remainders, each of which is one more loop to compile.
Tiles choose_tiles(int vector_width, int lanes, int block, int64_t size) {
  const bool wide = vector_width >= 16;
  const auto most = [&](int64_t extent) {
    int vectors = 1;
    while (vectors < (wide ? 4 : 2) && int64_t{2 * vectors * lanes} <= extent) vectors *= 2;
    return vectors;
  };
  const auto rows = [&](int vectors) { return wide && vectors < 4 ? 8 : 4; };
  const int vectors = most(block), along = most(size);
  return {rows(vectors), vectors, rows(along), along};
}

std::string vector_text(int lanes, int vectors) {
  return "vec" + std::to_string(lanes) + (vectors > 1 ? "x" + std::to_string(vectors) : "");
}

// The rows of one head of an operand.
struct Rows {
  Buffer buffer;
  Expr start, stride;

  Expr index(Expr position, Expr c) const { return start + position * stride + c; }
  Expr at(Expr position, Expr c) const { return buffer[index(position, c)]; }
};

// Where operands lie, and the dropout: what both kernels take.
class Layout {
 public:
  Layout(KernelBuilder& k, const AttentionShape& shape, bool dropout) : type_(shape.dtype), packed_(shape.packed) {
    rows = k.size("rows");
    heads = k.size("heads");
    kv_heads = k.size("kv_heads");
    queries = k.size("queries");
    keys = k.size("keys");
    size = Expr(shape.size);
    scale = k.scalar(type_, "scale");
    dropout_ = dropout;
    if (!dropout) return;
    probability_ = k.scalar(type_, "probability");
    factor_ = k.scalar(type_, "factor");
    counter_ = k.scalar(DType::u32, "counter");
    key_ = k.scalar(DType::u32, "key");
  }

  static void append(const AttentionShape& s, const AttentionOptions& o, std::vector<uint64_t>* scalars) {
    for (const int64_t value : {s.rows, s.heads, s.kv_heads, s.queries, s.keys}) scalars->push_back(scalar_bits(value));
    scalars->push_back(scalar_bits(s.dtype, o.scale));
    if (o.dropout == 0) return;
    scalars->push_back(scalar_bits(s.dtype, o.dropout));
    scalars->push_back(scalar_bits(s.dtype, 1.0 / (1.0 - o.dropout)));
    const uint64_t stream = stream_bits(o.key);
    scalars->push_back(stream >> 32);
    scalars->push_back(stream & 0xFFFFFFFF);
  }

  Rows query(Buffer b, Expr row, Expr head) const {
    if (packed_) return part(b, row, head);
    return {b, (row * heads + head) * queries * size, size};
  }
  Rows key(Buffer b, Expr row, Expr kv_head) const {
    if (packed_) return part(b, row, heads + kv_head);
    return {b, (row * kv_heads + kv_head) * keys * size, size};
  }
  Rows value(Buffer b, Expr row, Expr kv_head) const {
    if (packed_) return part(b, row, heads + kv_heads + kv_head);
    return {b, (row * kv_heads + kv_head) * keys * size, size};
  }
  Rows result(Buffer b, Expr row, Expr head) const {
    if (packed_) return {b, (row * queries * heads + head) * size, heads * size};
    return {b, (row * heads + head) * queries * size, size};
  }

  bool drops() const { return dropout_; }
  // The weight, or its gradient, after dropout. `first`: the number of the query's first weight.
  Expr drop(Expr first, Expr key, Expr weight) const {
    const Expr number = uniform_element(first + key, counter_, key_, type_);
    return select(probability_ <= number, weight * factor_, dsl::constant(type_, 0));
  }

  Expr rows, heads, kv_heads, queries, keys, size, scale;

 private:
  Rows part(Buffer b, Expr row, Expr head) const {
    const Expr width = (heads + kv_heads * 2) * size;
    return {b, row * queries * width + head * size, width};
  }

  DType type_;
  bool packed_, dropout_;
  Expr probability_, factor_, counter_, key_;
};

struct Inputs {
  Buffer q, k, v;
};
Inputs declare_inputs(KernelBuilder& k, const AttentionShape& shape) {
  if (shape.packed) {
    const Buffer joined = k.input(shape.dtype, "qkv");
    return {joined, joined, joined};
  }
  const Buffer q = k.input(shape.dtype, "q"), keys = k.input(shape.dtype, "k");
  return {q, keys, k.input(shape.dtype, "v")};
}

// A block of queries of one head.
struct Block {
  int extent;         // of the block; queries past `count` are zeros
  Expr first, count;  // its queries
  Expr before;        // keys that all of its queries see; query m sees m + 1 more

  Expr groups() const { return (count + (kGroup - 1)) / kGroup; }
  // Keys that queries up to the end of a group see.
  Expr seen(Expr group) const { return before + dsl::min((group + 1) * kGroup, count); }
};

// turned[c][m] = source row m of the block (times scale), zeros past the last.
void turn(KernelBuilder& k, DType type, const Block& block, const Rows& source, Expr size, const Expr* scale,
          const Buffer& turned) {
  k.range("turn_c", size, [&](Expr c) {
    k.range("turn_m", Expr(block.extent), [&](Expr m) {
      const Expr x = source.buffer.load(source.index(block.first + m, c), m < block.count, dsl::constant(type, 0));
      turned.store(c * block.extent + m, scale ? x * *scale : x);
    });
  });
}

// to[key][m] = sum over c of rows[key][c] * turned[c][m] for every key of the block; `hidden` where m does not see it.
void score(KernelBuilder& k, DType type, const Block& block, const Rows& rows, Expr size, const Buffer& turned,
           const Buffer& to, double hidden) {
  const auto product = [&](Expr key, Expr m) {
    return k.fma_chain("k", size, dsl::constant(type, 0),
                       [&](Expr c) { return std::pair(rows.at(key, c), turned[c * block.extent + m]); });
  };
  k.range("n", block.before, [&](Expr n) {
    k.range("m", Expr(block.extent), [&](Expr m) { to.store(n * block.extent + m, product(n, m)); });
  });
  k.range("j", block.groups(), [&](Expr j) {
    const Expr start = j * kGroup;
    k.range("diagonal_n", dsl::min(Expr(kGroup), block.count - start), [&](Expr n) {
      k.range("diagonal_m", (Expr(block.extent / kGroup) - j) * kGroup, [&](Expr m) {
        const Expr key = block.before + start + n;
        to.store(key * block.extent + (start + m),
                 select(n <= m, product(key, start + m), dsl::constant(type, hidden)));
      });
    });
  });
}

std::string key_of(const char* name, const AttentionShape& s, const AttentionOptions& o) {
  std::string key =
      typed_key(name, s.dtype) + " block" + std::to_string(block_size(s.queries)) + " size" + std::to_string(s.size);
  if (s.packed) key += " packed";
  if (o.dropout > 0) key += " dropout";
  return key;
}

std::string schedule_of(Context& context, const AttentionShape& s) {
  const int lanes = std::max(context.vector_width() * 4 / ir::dtype_size(s.dtype), 1), block = block_size(s.queries);
  const Tiles tiles = choose_tiles(context.vector_width(), lanes, block, s.size);
  const std::string one = vector_text(std::min(lanes, kGroup), 1);
  return "tile:thread turn_m:" + one + " n:tile" + std::to_string(tiles.rows) +
         " m:" + vector_text(lanes, tiles.vectors) + " diagonal_n:tile4 diagonal_m:" + vector_text(lanes, 2) +
         " product_m:tile" + std::to_string(tiles.size_rows) + " product_c:" + vector_text(lanes, tiles.size_vectors) +
         " k:unroll4 lane:" + one;
}

}  // namespace

KernelCall attention_call(Context& context, const AttentionShape& shape, const AttentionOptions& options) {
  KernelCall call;
  call.key = key_of("attention", shape, options);
  call.schedule = schedule_of(context, shape);
  call.define = [shape, dropout = options.dropout > 0, extent = block_size(shape.queries)](KernelBuilder& k) {
    const DType type = shape.dtype;
    const Inputs in = declare_inputs(k, shape);
    const Buffer result = k.output(type, "result"), logs = k.output(type, "logs");
    const Layout l(k, shape, dropout);
    const Expr blocks = (l.queries + (extent - 1)) / extent, zero = dsl::constant(type, 0);
    k.range("tile", l.rows * l.heads * blocks, [&](Expr tile) {
      const Expr first = tile % blocks * extent, head = tile / blocks % l.heads, row = tile / blocks / l.heads;
      const Block block{extent, first, dsl::min(Expr(extent), l.queries - first), first + (l.keys - l.queries)};
      const Expr kv_head = head / (l.heads / l.kv_heads);
      const Rows q = l.query(in.q, row, head), keys = l.key(in.k, row, kv_head), v = l.value(in.v, row, kv_head);
      const Rows y = l.result(result, row, head);
      const Expr first_query = (row * l.heads + head) * l.queries + first;

      const Buffer turned = k.scratch(type, "turned", l.size * extent);
      const Buffer weights = k.scratch(type, "weights", l.keys * extent);
      const Buffer tops = k.scratch(type, "tops", Expr(extent)), totals = k.scratch(type, "totals", Expr(extent));
      turn(k, type, block, q, l.size, &l.scale, turned);
      score(k, type, block, keys, l.size, turned, weights, kNever);
      k.range("group", block.groups(), [&](Expr group) {
        const Expr start = group * kGroup, seen = block.seen(group), one = dsl::constant(type, 1);
        const auto over_keys = [&](ir::Combine combine, Expr m) {
          const double identity = combine == ir::Combine::add ? 0 : kNever;
          return k.reduce("key", combine, kLanes, seen, dsl::constant(type, identity),
                          [&](Expr n) { return weights[n * extent + m]; });
        };
        k.range("lane", Expr(kGroup), [&](Expr i) { tops.store(start + i, over_keys(ir::Combine::max, start + i)); });
        k.range("exp_n", seen, [&](Expr n) {
          k.range("lane", Expr(kGroup), [&](Expr i) {
            const Expr at = n * extent + (start + i);
            weights.store(at, exp(weights[at] - tops[start + i]));
          });
        });
        k.range("lane", Expr(kGroup), [&](Expr i) { totals.store(start + i, over_keys(ir::Combine::add, start + i)); });
        const Expr count = dsl::min(Expr(kGroup), block.count - start);
        k.range("lane", count,
                [&](Expr i) { logs.store(first_query + start + i, log(totals[start + i]) + tops[start + i]); });
        if (dropout)
          k.range("drop_n", seen, [&](Expr n) {
            k.range("lane", Expr(kGroup), [&](Expr i) {
              const Expr at = n * extent + (start + i);
              weights.store(at, l.drop((first_query + start + i) * l.keys, n, weights[at]));
            });
          });
        k.range("product_m", count, [&](Expr i) {
          const Expr m = start + i;
          k.range("product_c", l.size, [&](Expr c) {
            const Expr mixed =
                k.fma_chain("k", seen, zero, [&](Expr n) { return std::pair(weights[n * extent + m], v.at(n, c)); });
            result.store(y.index(first + m, c), mixed * (one / totals[m]));
          });
        });
      });
    });
  };
  const AttentionShape& s = shape;
  call.results = {{s.dtype, s.result_shape()}, {s.dtype, {s.rows, s.heads, s.queries}}};
  Layout::append(s, options, &call.scalars);
  return call;
}

KernelCall attention_gradient_call(Context& context, const AttentionShape& shape, const AttentionOptions& options) {
  KernelCall call;
  call.key = key_of("attention_gradient", shape, options);
  const int lanes = std::max(context.vector_width() * 4 / ir::dtype_size(shape.dtype), 1);
  const Tiles tiles = choose_tiles(context.vector_width(), lanes, block_size(shape.queries), shape.size);
  call.schedule = schedule_of(context, shape) + " product_n:tile" + std::to_string(tiles.size_rows) + " row_c:vec";
  call.define = [shape, dropout = options.dropout > 0, extent = block_size(shape.queries)](KernelBuilder& k) {
    const DType type = shape.dtype;
    const Inputs in = declare_inputs(k, shape);
    const Buffer logs = k.input(type, "logs"), means = k.input(type, "means"), gradient = k.input(type, "gradient");
    const Buffer dq = shape.packed ? k.in_out(type, "dqkv") : k.output(type, "dq");
    const Buffer dk = shape.packed ? dq : k.in_out(type, "dk"), dv = shape.packed ? dq : k.in_out(type, "dv");
    const Layout l(k, shape, dropout);
    const Expr blocks = (l.queries + (extent - 1)) / extent, zero = dsl::constant(type, 0);
    k.range("tile", l.rows * l.kv_heads, [&](Expr tile) {
      const Expr kv_head = tile % l.kv_heads, row = tile / l.kv_heads, sharing = l.heads / l.kv_heads;
      const Rows keys = l.key(in.k, row, kv_head), v = l.value(in.v, row, kv_head);
      const Rows key_gradient = l.key(dk, row, kv_head), value_gradient = l.value(dv, row, kv_head);
      const Buffer turned_q = k.scratch(type, "turned_q", l.size * extent);
      const Buffer turned_dy = k.scratch(type, "turned_dy", l.size * extent);
      const Buffer scaled_q = k.scratch(type, "scaled_q", l.size * extent);
      const Buffer weights = k.scratch(type, "weights", l.keys * extent);
      const Buffer slopes = k.scratch(type, "slopes", l.keys * extent);
      const Buffer log = k.scratch(type, "log", Expr(extent)), mean = k.scratch(type, "mean", Expr(extent));

      k.range("clear_n", l.keys, [&](Expr n) {
        k.range("row_c", l.size, [&](Expr c) {
          dk.store(key_gradient.index(n, c), zero);
          dv.store(value_gradient.index(n, c), zero);
        });
      });
      k.serial("member", sharing, [&](Expr member) {
        const Expr head = kv_head * sharing + member;
        const Rows q = l.query(in.q, row, head), dy = l.result(gradient, row, head), dq_rows = l.query(dq, row, head);
        k.serial("block", blocks, [&](Expr number) {
          const Expr first = number * extent;
          const Block block{extent, first, dsl::min(Expr(extent), l.queries - first), first + (l.keys - l.queries)};
          const Expr first_query = (row * l.heads + head) * l.queries + first;
          turn(k, type, block, q, l.size, &l.scale, turned_q);
          turn(k, type, block, dy, l.size, nullptr, turned_dy);
          k.range("scale_m", block.count, [&](Expr m) {
            k.range("row_c", l.size, [&](Expr c) { scaled_q.store(m * l.size + c, q.at(first + m, c) * l.scale); });
          });
          k.range("lane", Expr(extent), [&](Expr m) {
            log.store(m, logs.load(first_query + m, m < block.count, zero));
            mean.store(m, means.load(first_query + m, m < block.count, zero));
          });
          const auto at = [&](Expr key, Expr m) { return key * extent + m; };
          score(k, type, block, keys, l.size, turned_q, weights, kNever);
          score(k, type, block, v, l.size, turned_dy, slopes, 0);
          k.range("slope_group", block.groups(), [&](Expr group) {
            const Expr start = group * kGroup;
            k.range("slope_n", block.seen(group), [&](Expr n) {
              k.range("lane", Expr(kGroup), [&](Expr i) {
                const Expr m = start + i;
                const auto dropped = [&](Expr x) { return dropout ? l.drop((first_query + m) * l.keys, n, x) : x; };
                const Expr weight = exp(weights[at(n, m)] - log[m]);
                slopes.store(at(n, m), weight * (dropped(slopes[at(n, m)]) - mean[m]));
                weights.store(at(n, m), dropped(weight));
              });
            });
          });

          // What the block adds to the gradients of its keys: chains that go on from the blocks before.
          const auto add_product = [&](const Buffer& factors, const Rows& to,
                                       const std::function<Expr(Expr, Expr)>& values) {
            const auto element = [&](Expr key, Expr start, Expr c) {
              const Expr index = to.index(key, c);
              to.buffer.store(index, k.fma_chain("k", block.count - start, to.buffer[index], [&](Expr m) {
                return std::pair(factors[at(key, start + m)], values(start + m, c));
              }));
            };
            k.range("product_n", block.before,
                    [&](Expr n) { k.range("product_c", l.size, [&](Expr c) { element(n, Expr(0), c); }); });
            k.range("product_group", block.groups(), [&](Expr group) {
              const Expr start = group * kGroup;
              k.range("product_m", dsl::min(Expr(kGroup), block.count - start), [&](Expr i) {
                k.range("product_c", l.size, [&](Expr c) { element(block.before + start + i, start, c); });
              });
            });
          };
          add_product(weights, value_gradient, [&](Expr m, Expr c) { return dy.at(first + m, c); });
          add_product(slopes, key_gradient, [&](Expr m, Expr c) { return scaled_q[m * l.size + c]; });
          k.range("group", block.groups(), [&](Expr group) {
            const Expr start = group * kGroup;
            k.range("product_m", dsl::min(Expr(kGroup), block.count - start), [&](Expr i) {
              const Expr m = start + i;
              k.range("product_c", l.size, [&](Expr c) {
                const Expr sum = k.fma_chain("k", block.seen(group), zero,
                                             [&](Expr n) { return std::pair(slopes[at(n, m)], keys.at(n, c)); });
                dq.store(dq_rows.index(first + m, c), sum * l.scale);
              });
            });
          });
        });
      });
    });
  };
  const AttentionShape& s = shape;
  if (s.packed)
    call.results = {{s.dtype, s.packed_shape()}};
  else
    call.results = {{s.dtype, s.query_shape()}, {s.dtype, s.key_shape()}, {s.dtype, s.key_shape()}};
  Layout::append(s, options, &call.scalars);
  return call;
}

}  // namespace sporkle::tensor
