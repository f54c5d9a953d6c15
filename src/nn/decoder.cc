#include "nn/decoder.h"

#include <algorithm>
#include <numeric>

#include "tensor/layers.h"
#include "tensor/node.h"

namespace sporkle::nn {

using tensor::Tensor;

namespace {

Status wrong_size(int64_t wanted, size_t found) {
  return invalid_argument("the model has " + std::to_string(wanted) + " parameters, not " + std::to_string(found));
}

}  // namespace

std::vector<Tensor> values(std::span<const Parameter> parameters) {
  std::vector<Tensor> result;
  for (const Parameter& p : parameters) result.push_back(p.value);
  return result;
}

size_t Decoder::add(std::string name, const tensor::Shape& shape, double deviation, double mean, bool decay,
                    uint64_t seed) {
  const size_t index = parameters_.size();
  // The parameter's number is its random stream, so that each has numbers of its own.
  Tensor value = deviation > 0 ? tensor::normal(*context_, shape, {seed, index, 0}) * deviation
                               : tensor::full(*context_, shape, mean);
  parameters_.push_back({std::move(name), std::move(value), decay});
  return index;
}

int64_t Decoder::parameter_count() const {
  int64_t count = 0;
  for (const Parameter& p : parameters_) count += p.value.size();
  return count;
}

Status Decoder::get_parameters(std::span<float> values) const {
  if (static_cast<int64_t>(values.size()) != parameter_count()) return wrong_size(parameter_count(), values.size());
  const std::vector<Tensor> all = nn::values(parameters_);
  SPORKLE_RETURN_IF_ERROR(tensor::realize(all));
  for (const Tensor& tensor : all) {
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> host, tensor.to_host<float>());
    std::ranges::copy(host, values.begin());
    values = values.subspan(host.size());
  }
  return {};
}

Status Decoder::set_parameters(std::span<const float> values) {
  if (static_cast<int64_t>(values.size()) != parameter_count()) return wrong_size(parameter_count(), values.size());
  for (Parameter& p : parameters_) {
    const auto size = static_cast<size_t>(p.value.size());
    p.value = tensor::from_host<float>(*context_, values.first(size), p.value.shape());
    SPORKLE_RETURN_IF_ERROR(p.value.status());
    values = values.subspan(size);
  }
  return {};
}

Status Decoder::quantize_int8() {
  std::vector<LinearWeight> weights = linear_weights();
  weights.push_back({head(), true});
  for (const LinearWeight& w : weights) {
    Result<QuantizedWeight> weight = quantize_weight(parameter(w.parameter), w.transposed);
    if (!weight.ok()) return weight.status().with_context(parameters_[w.parameter].name);
    quantized_[w.parameter] = std::move(*weight);
  }
  return {};
}

Status Decoder::lay_out_for_generation() {
  for (const LinearWeight& w : linear_weights()) {
    Tensor& value = parameters_[w.parameter].value;
    if (w.transposed || value.extent(0) < 2 * value.extent(1)) continue;
    const Tensor by_outputs = value.transpose(0, 1).contiguous().detach();
    SPORKLE_RETURN_IF_ERROR(tensor::realize({by_outputs}).with_context(parameters_[w.parameter].name));
    value = by_outputs.transpose(0, 1);
  }
  return {};
}

Tensor Decoder::product(const Tensor& x, const LinearWeight& weight) const {
  if (const auto found = quantized_.find(weight.parameter); found != quantized_.end())
    return quantized_linear(x, found->second);
  const Tensor& value = parameter(weight.parameter);
  return tensor::matmul(x, weight.transposed ? value.transpose(0, 1) : value);
}

Tensor Decoder::logits(const Tensor& tokens, const DropoutKey* dropout) const {
  return product(hidden(tokens, dropout, nullptr), {head(), true});
}

Tensor Decoder::loss(const Tensor& tokens, const Tensor& targets, const DropoutKey* dropout) const {
  const Tensor last = hidden(tokens, dropout, nullptr);
  if (!last.ok()) return last;
  if (is_quantized())
    return tensor::cross_entropy(product(last, {head(), true}).reshape({-1, parameter(head()).extent(0)}),
                                 targets.reshape({-1}));
  return tensor::linear_cross_entropy(last.reshape({-1, last.extent(-1)}), parameter(head()), targets.reshape({-1}));
}

Tensor Decoder::extend(const Tensor& tokens, Cache& cache) const {
  const auto failed = [&](const Status& status) { return tensor::error_tensor(context_, status); };
  if (Status s = check_length(tokens, &cache, context_length()); !s.ok()) return failed(s);
  const int64_t rows = tokens.extent(0), length = tokens.extent(1);
  while (static_cast<int64_t>(cache.layers.size()) < layer_count()) cache.layers.push_back(make_cache(rows));
  // Data, so that the graphs of all positions are one, planned once.
  std::vector<int32_t> numbers(static_cast<size_t>(length));
  std::iota(numbers.begin(), numbers.end(), static_cast<int32_t>(cache.length));
  cache.positions = tensor::from_host<int32_t>(*context_, numbers, {length});
  Tensor given = tokens;
  if (length == 1 && !tokens.node()->storage) {  // a view is no data
    const Result<std::vector<int32_t>> values = tokens.to_host<int32_t>();
    if (!values.ok()) return failed(values.status());
    given = tensor::from_host<int32_t>(*context_, *values, {rows, 1});
  }
  const Tensor inputs[] = {given, cache.positions};
  if (length == 1 && cache.step) {
    const Result<std::vector<Tensor>> logits = cache.step->replay(inputs);
    if (!logits.ok()) return failed(logits.status());
    ++cache.length;
    return (*logits)[0];
  }
  const Tensor all = hidden(given, nullptr, &cache);
  if (!all.ok()) return all;
  const Tensor last = all.slice(1, length - 1, 1).reshape({rows, all.extent(-1)});
  const Tensor logits = product(last, {head(), true});
  cache.length += length;
  if (length > 1) {
    const Status status = tensor::realize({logits});
    return status.ok() ? logits : failed(status);
  }
  const Tensor outputs[] = {logits};
  Result<tensor::Capture> step = tensor::Capture::record(inputs, outputs, tensor::Capture::Others::keep);
  if (!step.ok()) return failed(step.status());
  cache.step = std::make_shared<tensor::Capture>(std::move(*step));
  return logits;
}

Status Decoder::check_length(const Tensor& tokens, const Cache* cache, int64_t context) const {
  const int64_t start = cache ? cache->length : 0;
  if (tokens.rank() == 2 && start + tokens.extent(1) <= context) return {};
  return invalid_argument("tokens of shape " + tensor::to_string(tokens.shape()) + " after position " +
                          std::to_string(start) + " do not fit a context of " + std::to_string(context));
}

tensor::RandomKey Decoder::dropout_key(const DropoutKey& key, uint64_t place) {
  // Streams above the parameters' own.
  return {key.seed, (uint64_t{1} << 32) + place, key.step};
}

}  // namespace sporkle::nn
