// Layers that are one kernel each way: normalisation, attention weights, loss, embedding. Written in the kernel
// language, with their gradients; f32 and f64. All are strict: their orders depend on shapes alone.
#pragma once

#include "tensor/tensor.h"

namespace sporkle::tensor {

// (x - mean) / sqrt(variance + epsilon) * weight + bias over the last axis. weight, bias: [extent of that axis].
// Ba, Kiros and Hinton, "Layer Normalization", 2016.
Tensor layer_norm(const Operand& x, const Tensor& weight, const Tensor& bias, double epsilon);

// x / sqrt(mean of x^2 + epsilon) * weight over the last axis. weight: [extent of that axis].
// Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
Tensor rms_norm(const Operand& x, const Tensor& weight, double epsilon);

// silu(gate) * up, where silu(g) = g / (1 + exp(-g)). Equal shapes. Shazeer, "GLU Variants Improve Transformer", 2020.
Tensor swiglu(const Operand& gate, const Tensor& up);

// The cosines and sines that rotary() turns by: [positions, size / 2] each, of position * base^(-2 i / size), computed
// in f64 and rounded. size is even.
struct RotaryTables {
  Tensor cosines, sines;
};
RotaryTables rotary_tables(Context& context, int64_t positions, int64_t size, double base, DType type = DType::f32);

// Turns element i and i + size / 2 of each of the first `heads` heads in x [rows, length, width] as a pair, by the
// angle of its position, which is `first_position` + the place in the length; what follows in the width stays. Su et
// al., "RoFormer", 2021, with the pairing of Llama's checkpoints. The tables reach as far as the positions.
Tensor rotary(const Operand& x, const RotaryTables& tables, int64_t heads, int64_t first_position = 0);

// Softmax of x * scale over the last axis. x: [..., queries, keys]; query i sees keys 0 .. i + keys - queries, the
// other weights are 0. keys >= queries.
Tensor causal_softmax(const Operand& x, double scale);

// Mean over the rows of -log softmax(logits)[target], in nats. logits: [rows, classes], targets: i32 [rows], each in
// [0, classes) (the caller has checked). Shape []. The probabilities are never stored.
Tensor cross_entropy(const Operand& logits, const Tensor& targets);

// cross_entropy of x [rows, width] times weight^T, weight [classes, width]. Where there are many logits, they are
// computed some rows at a time, again in the backward pass, and are never whole in memory; the weight's gradient is
// then the sum of the parts', in order.
Tensor linear_cross_entropy(const Operand& x, const Tensor& weight, const Tensor& targets);

// Rows of weight [rows, width] chosen by tokens: i32 of any shape, each in [0, rows) (the caller has checked). Result:
// tokens' shape with width behind it. The gradient adds rows in the order of the tokens.
Tensor embedding(const Operand& weight, const Tensor& tokens);

}  // namespace sporkle::tensor
