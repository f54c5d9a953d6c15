#include "tensor/composed_attention.h"

#include "tensor/context.h"
#include "tensor/low_precision.h"

namespace sporkle::tensor {
namespace {

using Tensors = std::vector<Tensor>;

// With a block of so many queries about three fifths of 1024 x 1024 scores are computed, and products are still large
// enough for a GPU.
constexpr int64_t kBlock = 256;

class Composed {
 public:
  Composed(const AttentionShape& shape, const AttentionOptions& options, const Tensor& q, const Tensor& k,
           const Tensor& v)
      : shape_(shape), options_(options), q_(q * options.scale), k_(k), v_(v) {
    Context& context = q.context();
    adds_in_any_order_ = context.is_fast_gpu();
    // What a product reads in 16 bits is best made so.
    const bool narrow = shape.dtype == DType::f32 && context.options().product_type == DType::bf16 &&
                        multiplies_bf16(context) && options.dropout == 0;
    factors_ = narrow ? DType::bf16 : shape.dtype;
  }

  Tensors forward() const {
    Tensor y, logs;
    for (int64_t first = 0, count; first < shape_.queries; first += count) {
      count = rows_of_block(first, true);
      const Tensor all[] = {scores(first, count)};
      const Tensors parts =
          call_kernel(attention_weights_call(q_.context(), factors_, all[0].dtype(), all[0].shape()), all);
      const Tensor part = matmul(drop(as_factors(parts[0])), seen(v_, first, count)) * parts[2].unsqueeze(-1);
      append(&y, part.reshape({shape_.rows, shape_.heads, count, shape_.size}), 2);
      append(&logs, parts[1].reshape({shape_.rows, shape_.heads, count}), 2);
    }
    return {y, logs};
  }

  Tensors backward(const Tensor& logs, const Tensor& means, const Tensor& dy) const {
    Tensor dq, dk, dv;
    for (int64_t first = 0, count; first < shape_.queries; first += count) {
      count = rows_of_block(first, adds_in_any_order_);
      const auto of_block = [&](const Tensor& x) { return x.slice(2, first, count); };
      const Tensor slopes_of_weights = drop(matmul(grouped(of_block(dy)), seen(v_, first, count).transpose(-1, -2)));
      const Tensor inputs[] = {scores(first, count), of_block(logs).contiguous(), slopes_of_weights,
                               of_block(means).contiguous()};
      const Tensors factors =
          call_kernel(attention_slopes_call(factors_, inputs[0].dtype(), inputs[0].shape()), inputs);
      const Tensor slopes = as_factors(factors[1]);
      append(&dq,
             (matmul(slopes, seen(k_, first, count)) * options_.scale)
                 .reshape({shape_.rows, shape_.heads, count, shape_.size}),
             2);
      add(&dk, over_queries(slopes, of_block(q_)));
      add(&dv, over_queries(drop(as_factors(factors[0])), of_block(dy)));
    }
    return {dq, dk, dv};
  }

 private:
  // Dropout numbers the weights of all queries.
  int64_t rows_of_block(int64_t first, bool blocks) const {
    return blocks && options_.dropout == 0 ? std::min(kBlock, shape_.queries - first) : shape_.queries;
  }
  int64_t sharing() const { return shape_.heads / shape_.kv_heads; }
  // [rows, heads, count, size] -> [rows, kv_heads, sharing, count, size]. Where nothing is shared, both stay as they
  // are: a product of two batch axes reads its operands in place.
  Tensor grouped(const Tensor& x) const {
    if (sharing() == 1) return x;
    return x.reshape({shape_.rows, shape_.kv_heads, sharing(), x.extent(2), x.extent(3)});
  }
  // Of keys or values those that the block sees: [rows, kv_heads, 1, seen, size].
  Tensor seen(const Tensor& x, int64_t first, int64_t count) const {
    const Tensor some = x.slice(2, 0, shape_.keys - shape_.queries + first + count);
    return sharing() == 1 ? some : some.unsqueeze(2);
  }
  Tensor scores(int64_t first, int64_t count) const {
    return matmul(grouped(q_.slice(2, first, count)), seen(k_, first, count).transpose(-1, -2));
  }
  // The pass that narrows products' operands finds these narrow.
  Tensor as_factors(const Tensor& x) const { return factors_ == shape_.dtype ? x : x.cast(shape_.dtype); }
  Tensor drop(const Tensor& weights) const {
    if (options_.dropout == 0) return weights;
    return dropout(weights.reshape({shape_.rows, shape_.heads, shape_.queries, shape_.keys}), options_.dropout,
                   options_.key)
        .reshape(weights.shape());
  }
  // factors [rows, (kv_heads, sharing), count, seen], x [rows, heads, count, size] -> [rows, kv_heads, seen, size].
  Tensor over_queries(const Tensor& factors, const Tensor& x) const {
    const int64_t count = sharing() * x.extent(2);
    return matmul(factors.reshape({shape_.rows, shape_.kv_heads, count, factors.extent(-1)}).transpose(-1, -2),
                  x.reshape({shape_.rows, shape_.kv_heads, count, shape_.size}));
  }
  static void append(Tensor* all, const Tensor& part, int axis) {
    *all = all->defined() ? concatenate(*all, part, axis) : part;
  }
  void add(Tensor* sum, const Tensor& part) const {
    const Tensor whole = part.pad(2, 0, shape_.keys - part.extent(2));
    *sum = sum->defined() ? *sum + whole : whole;
  }

  const AttentionShape& shape_;
  const AttentionOptions& options_;
  const Tensor q_;  // scaled
  const Tensor &k_, &v_;
  bool adds_in_any_order_;
  DType factors_;  // of weights and their slopes
};

}  // namespace

Tensors composed_attention(const AttentionShape& shape, const AttentionOptions& options, const Tensor& q,
                           const Tensor& k, const Tensor& v) {
  return Composed(shape, options, q, k, v).forward();
}

Tensors composed_attention_gradients(const AttentionShape& shape, const AttentionOptions& options, const Tensor& q,
                                     const Tensor& k, const Tensor& v, const Tensor& logs, const Tensor& means,
                                     const Tensor& dy) {
  return Composed(shape, options, q, k, v).backward(logs, means, dy);
}

}  // namespace sporkle::tensor
