// Layers that are one kernel each way: normalisation, attention weights, loss, embedding. Written in the kernel
// language, with their gradients; f32 and f64. All are strict: their orders depend on shapes alone.
#pragma once

#include "tensor/tensor.h"

namespace sporkle::tensor {

// (x - mean) / sqrt(variance + epsilon) * weight + bias over the last axis. weight, bias: [extent of that axis].
// Ba, Kiros and Hinton, "Layer Normalization", 2016.
Tensor layer_norm(const Operand& x, const Tensor& weight, const Tensor& bias, double epsilon);

// Softmax of x * scale over the last axis. x: [..., queries, keys]; query i sees keys 0 .. i + keys - queries, the
// other weights are 0. keys >= queries.
Tensor causal_softmax(const Operand& x, double scale);

// Cuts the joined projections of attention, [rows, length, 3 * width] (queries, keys, values; each heads x size), into
// the three: [rows, heads, length, size] each.
struct Heads {
  Tensor queries, keys, values;
};
Heads split_heads(const Operand& qkv, int64_t heads);

// Mean over the rows of -log softmax(logits)[target], in nats. logits: [rows, classes], targets: i32 [rows], each in
// [0, classes) (the caller has checked). Shape []. The probabilities are never stored.
Tensor cross_entropy(const Operand& logits, const Tensor& targets);

// Rows of weight [rows, width] chosen by tokens: i32 of any shape, each in [0, rows) (the caller has checked). Result:
// tokens' shape with width behind it. The gradient adds rows in the order of the tokens.
Tensor embedding(const Operand& weight, const Tensor& tokens);

}  // namespace sporkle::tensor
