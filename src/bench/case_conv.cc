// conv: 2-d convolution of images [images, channels, height, width], and its gradients. In `strict` every element must
// equal the chain of fused multiply-adds bit for bit.
#include <charconv>
#include <cmath>

#include "bench/case_list.h"
#include "bench/cases.h"
#include "bench/convolution_reference.h"
#include "bench/judge.h"
#include "bench/tensor_case.h"
#include "ir/node.h"
#include "tensor/autograd.h"
#include "tensor/convolution.h"

namespace sporkle::bench {
namespace {

using tensor::Tensor;

constexpr const char* kForm =
    "IMAGESxCHANNELSxHEIGHTxWIDTH:FILTERSxHEIGHTxWIDTH[:sSTRIDE][:pPADDING][:dDILATION][:gGROUPS][:dx|:dw]";

enum class Pass { forward, image_gradient, weight_gradient };

struct ConvolutionSetting {
  ConvolutionProblem problem;
  Pass pass = Pass::forward;
};

class ConvolutionCase final : public TensorCase {
 public:
  ConvolutionCase(const Setting& setting, const ConvolutionSetting& shape)
      : TensorCase(setting), p_(shape.problem), pass_(shape.pass) {}

  Work work() const override { return work_of(p_); }
  std::string unit() const override { return "GFLOP/s"; }
  double value(double seconds) const override { return work().flops / seconds * 1e-9; }

  static Work work_of(const ConvolutionProblem& p) {
    const double taps = static_cast<double>(p.channels / p.groups * p.kernel_height * p.kernel_width);
    return {2 * taps * static_cast<double>(p.result_count()),
            4 * static_cast<double>(p.image_count() + p.weight_count() + p.result_count())};
  }
  static int sets_of(const Work& work) { return set_count(work.bytes, work.flops / work.bytes >= 10); }

 protected:
  Status make_sets(std::vector<std::vector<HostArray>>* sets, Problem* problem) override {
    const std::vector<int64_t> images{p_.images, p_.channels, p_.height, p_.width};
    const std::vector<int64_t> weight{p_.filters, p_.channels / p_.groups, p_.kernel_height, p_.kernel_width};
    const std::vector<int64_t> result{p_.images, p_.filters, p_.output_height(), p_.output_width()};
    problem->operation = "conv2d";
    problem->parameters = {{"stride", p_.stride},
                           {"padding", p_.padding},
                           {"dilation", p_.dilation},
                           {"groups", p_.groups},
                           {"pass", static_cast<int64_t>(pass_)}};
    problem->outputs = {pass_ == Pass::forward          ? HostArray{"y", ir::DType::f32, result, {}}
                        : pass_ == Pass::image_gradient ? HostArray{"dx", ir::DType::f32, images, {}}
                                                        : HostArray{"dw", ir::DType::f32, weight, {}}};
    sets->resize(static_cast<size_t>(sets_of(work())));
    uint64_t seed = 1;
    ThreadPool pool(std::max(setting().threads, 1));
    for (std::vector<HostArray>& set : *sets) {
      set.push_back(make_array("x", ir::DType::f32, images));
      set.push_back(make_array("w", ir::DType::f32, weight));
      if (pass_ != Pass::forward) set.push_back(make_array("dy", ir::DType::f32, result));
      for (HostArray& array : set) fill_random<float>(array.values<float>(), seed++, -0.5, 0.5);
      compute(pool, set, &chain_.emplace_back());
      compute(pool, set, &in_double_.emplace_back());
    }
    return {};
  }

  std::vector<Tensor> build(std::span<const Tensor> inputs) override {
    tensor::ConvolutionOptions options;
    options.stride = {p_.stride, p_.stride};
    options.padding = {p_.padding, p_.padding};
    options.dilation = {p_.dilation, p_.dilation};
    options.groups = p_.groups;
    const Tensor y = tensor::conv2d(inputs[0], inputs[1], options);
    if (pass_ == Pass::forward) return {y};
    // Lazy: of the gradients only the one that is realised runs, and the forward pass does not.
    const auto gradients = tensor::grad(sum(y * inputs[2]), inputs.first(2));
    if (!gradients.ok()) return {tensor::error_tensor(&context(), gradients.status())};
    return {(*gradients)[pass_ == Pass::image_gradient ? 0 : 1]};
  }

  Result<double> judge(int set, std::span<const HostArray> outputs, bool ours) override {
    const size_t index = static_cast<size_t>(set);
    if (ours && setting().numerics == ir::Numerics::strict)
      SPORKLE_RETURN_IF_ERROR(compare_bits<float>(outputs[0], chain_[index]));
    const int64_t taps = p_.kernel_height * p_.kernel_width;
    const int64_t depth = pass_ == Pass::forward          ? p_.channels / p_.groups * taps
                          : pass_ == Pass::image_gradient ? p_.filters / p_.groups * taps
                                                          : p_.images * p_.output_height() * p_.output_width();
    // As of a matrix product, but the patches of fast algorithms (Winograd's) lose some more digits.
    const double limit = 32 * rounding_unit(ir::DType::f32) * std::sqrt(static_cast<double>(depth) + 16);
    return compare_values(outputs[0], in_double_[index], limit);
  }

 private:
  template <typename T>
  void compute(ThreadPool& pool, const std::vector<HostArray>& set, std::vector<T>* to) const {
    const auto x = set[0].values<float>(), w = set[1].values<float>();
    const auto resized = [&](int64_t count) {
      to->resize(static_cast<size_t>(count));
      return std::span<T>(*to);
    };
    switch (pass_) {
      case Pass::forward:
        return convolution_forward<T>(pool, p_, x, w, resized(p_.result_count()));
      case Pass::image_gradient:
        return convolution_image_gradient<T>(pool, p_, w, set[2].values<float>(), resized(p_.image_count()));
      case Pass::weight_gradient:
        return convolution_weight_gradient<T>(pool, p_, x, set[2].values<float>(), resized(p_.weight_count()));
    }
  }

  ConvolutionProblem p_;
  Pass pass_;
  std::vector<std::vector<float>> chain_;       // of each set
  std::vector<std::vector<double>> in_double_;  // likewise
};

Status parse_option(std::string_view text, std::string_view option, ConvolutionSetting* setting) {
  if (option == "dx" || option == "dw") {
    setting->pass = option == "dx" ? Pass::image_gradient : Pass::weight_gradient;
    return {};
  }
  ConvolutionProblem& p = setting->problem;
  int64_t* target = option.starts_with('s')   ? &p.stride
                    : option.starts_with('p') ? &p.padding
                    : option.starts_with('d') ? &p.dilation
                    : option.starts_with('g') ? &p.groups
                                              : nullptr;
  int64_t value = -1;
  if (target && option.size() > 1) {
    const char* end = option.data() + option.size();
    const auto [stop, error] = std::from_chars(option.data() + 1, end, value);
    if (error != std::errc() || stop != end) value = -1;
  }
  if (!target || value < (target == &p.padding ? 0 : 1) || value > 65536)
    return invalid_argument("shape \"" + std::string(text) + "\": \":" + std::string(option) +
                            "\" is no part of the form " + kForm);
  *target = value;
  return {};
}

Result<ConvolutionSetting> parse_convolution(std::string_view text) {
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos)
    return invalid_argument("shape \"" + std::string(text) + "\" is not of the form " + kForm);
  std::string_view rest = text.substr(colon + 1);
  const auto next = [&] {
    const std::string_view word = rest.substr(0, rest.find(':'));
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
    return word;
  };
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<int64_t> images, parse_extents(text.substr(0, colon), 4, kForm));
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<int64_t> weight, parse_extents(next(), 3, kForm));
  ConvolutionSetting setting;
  setting.problem = {images[0], images[1], images[2], images[3], weight[0], weight[1], weight[2]};
  const bool ends_in_colon = text.ends_with(':');
  while (!rest.empty() || ends_in_colon) {
    SPORKLE_RETURN_IF_ERROR(parse_option(text, next(), &setting));
  }
  const ConvolutionProblem& p = setting.problem;
  // The result, too, must be countable in whole numbers.
  const double largest = static_cast<double>(p.images) * static_cast<double>(p.filters) *
                         static_cast<double>(p.height + 2 * p.padding) * static_cast<double>(p.width + 2 * p.padding);
  if (largest > 0x1p50)
    return invalid_argument("shape \"" + std::string(text) + "\" is too large: its result has more than 2^50 elements");
  for (const int64_t extent : {p.height, p.width, p.kernel_height, p.kernel_width, p.channels, p.filters, p.images})
    if (extent > int64_t{1} << 24)
      return invalid_argument("shape \"" + std::string(text) + "\" has an extent above 2^24");
  if (p.channels % p.groups != 0 || p.filters % p.groups != 0)
    return invalid_argument("shape \"" + std::string(text) + "\": " + std::to_string(p.groups) +
                            " groups do not divide " + std::to_string(p.channels) + " channels and " +
                            std::to_string(p.filters) + " filters");
  if (p.height + 2 * p.padding <= p.dilation * (p.kernel_height - 1) ||
      p.width + 2 * p.padding <= p.dilation * (p.kernel_width - 1))
    return invalid_argument("shape \"" + std::string(text) + "\": the kernel is larger than the padded images");
  return setting;
}

}  // namespace

CaseKind conv_case() {
  CaseKind kind;
  kind.name = "conv";
  kind.summary = "2-d convolution; with :dx or :dw the gradient of the images or of the weight";
  kind.shape_form = kForm;
  kind.default_shapes = {"1x3x224x224:64x7x7:s2:p3", "4x3x224x224:64x7x7:s2:p3",     "8x64x56x56:128x3x3:p1",
                         "1x64x224x224:64x3x3:p1",   "32x256x8x8:256x3x3:p1",        "8x64x56x56:128x3x3:p1:dx",
                         "8x64x56x56:128x3x3:p1:dw", "32x128x16x16:256x3x3:s2:p1:dx"};
  kind.dtypes = {ir::DType::f32};
  kind.numerics = {ir::Numerics::strict};
  kind.rivals = {"PyTorch"};
  kind.default_rivals = {"PyTorch"};
  kind.make = [](const Setting& setting) -> Result<std::unique_ptr<Case>> {
    SPORKLE_ASSIGN_OR_RETURN(const ConvolutionSetting shape, parse_convolution(setting.shape));
    const ConvolutionProblem& p = shape.problem;
    const Work work = ConvolutionCase::work_of(p);
    const double taps = static_cast<double>(p.kernel_height * p.kernel_width);
    // Device, host and rival hold the inputs, references are wider, and the reference writes out patches in f64 too.
    const double patches = 12 * taps * static_cast<double>(std::max(p.image_count(), p.result_count()));
    return within_memory(setting.shape, 6 * work.bytes * ConvolutionCase::sets_of(work) + patches,
                         std::make_unique<ConvolutionCase>(setting, shape));
  };
  return kind;
}

}  // namespace sporkle::bench
