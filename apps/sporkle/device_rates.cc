#include "apps/sporkle/device_rates.h"

#include <cmath>
#include <functional>
#include <vector>

#include "codegen/vulkan_target.h"
#include "dsl/kernel.h"
#include "ir/float16.h"
#include "tensor/context.h"
#include "tensor/random.h"
#include "tensor/tensor.h"

namespace sporkle::app {
namespace {

constexpr int kRounds = 4;
constexpr int kMatrixWarmUps = 100;  // until the clocks are up
constexpr int64_t kLargest = 4096;
constexpr double kLongEnough_s = 0.005;
constexpr size_t kCopiedBytes = size_t{64} << 20;

// The shortest time of a few runs, the first left out: it compiles.
Result<double> best_seconds(hal::Device& device, const std::function<Status()>& work) {
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    SPORKLE_ASSIGN_OR_RETURN(const double before, device.busy_seconds());
    SPORKLE_RETURN_IF_ERROR(work());
    SPORKLE_ASSIGN_OR_RETURN(const double after, device.busy_seconds());
    if (round == 1 || (round > 1 && after - before < best)) best = after - before;
  }
  return best;
}

// Of a product of n x n matrices, whose first and last rows are checked.
Result<double> product_seconds(tensor::Context& context, int64_t n) {
  const tensor::Tensor a = tensor::uniform(context, {n, n}, {1, 0}), b = tensor::full(context, {n, n}, 0.5);
  SPORKLE_RETURN_IF_ERROR(tensor::realize({a, b}));
  SPORKLE_RETURN_IF_ERROR(context.wait());
  tensor::Tensor product;
  SPORKLE_ASSIGN_OR_RETURN(const double seconds, best_seconds(context.device(), [&]() -> Status {
                             product = tensor::matmul(a, b);
                             SPORKLE_RETURN_IF_ERROR(tensor::realize({product}));
                             return context.wait();
                           }));
  // Every element of a row is half the row's sum.
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> factors, a.to_host<float>());
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> products, product.to_host<float>());
  for (const int64_t row : {int64_t{0}, n - 1}) {
    double sum = 0;
    for (int64_t k = 0; k < n; ++k) sum += 0.5 * static_cast<double>(factors[static_cast<size_t>(row * n + k)]);
    for (int64_t column = 0; column < n; ++column)
      if (std::abs(products[static_cast<size_t>(row * n + column)] - sum) > 1e-3 * (1 + std::abs(sum)))
        return internal_error("device " + context.device().info().id + " computed a wrong product");
  }
  return seconds;
}

// Of `fast` kernels the device's matrix units take products of 16-bit numbers whose rows are known to be aligned.
ir::Kernel matrix_product(ir::DType type) {
  return dsl::trace(
      "matrix_units",
      [&](dsl::KernelBuilder& k) {
        constexpr int64_t kUnit = 256;  // that extents are multiples of
        const dsl::Buffer a = k.input(type, "a"), b = k.input(type, "b"), c = k.output(ir::DType::f32, "c");
        const dsl::Expr n = k.size("blocks") * kUnit;
        k.range("m", n, [&](dsl::Expr i) {
          k.range("n", n, [&](dsl::Expr j) {
            c.store(i * n + j, k.fma_chain("k", n, dsl::constant(ir::DType::f32, 0.0), [&](dsl::Expr l) {
              return std::pair(cast(ir::DType::f32, a[i * n + l]), cast(ir::DType::f32, b[l * n + j]));
            }));
          });
        });
      },
      ir::Numerics::fast);
}

// Of 16-bit numbers from -1 to 1.
Result<double> matrix_seconds(tensor::Context& context, ir::DType type, int64_t n) {
  hal::Device& device = context.device();
  const auto count = static_cast<size_t>(n * n);
  std::vector<uint16_t> a(count), b(count);
  uint32_t state = 1;
  const auto draw = [&] {
    state = state * 1664525u + 1013904223u;
    // A number of seven bits, which both formats hold.
    const float value = (static_cast<float>(state >> 25) - 63.5f) / 64.0f;
    return type == ir::DType::bf16 ? ir::float_to_bfloat16(value) : ir::float_to_half(value);
  };
  const auto number = [&](uint16_t bits) {
    return static_cast<double>(type == ir::DType::bf16 ? ir::bfloat16_to_float(bits) : ir::half_to_float(bits));
  };
  for (uint16_t& x : a) x = draw();
  for (uint16_t& x : b) x = draw();
  SPORKLE_ASSIGN_OR_RETURN(const hal::ExecutableRef executable, context.kernels().get(matrix_product(type), {}));
  SPORKLE_ASSIGN_OR_RETURN(const hal::BufferRef left, device.allocate(2 * count));
  SPORKLE_ASSIGN_OR_RETURN(const hal::BufferRef right, device.allocate(2 * count));
  SPORKLE_ASSIGN_OR_RETURN(const hal::BufferRef product, device.allocate(4 * count));
  SPORKLE_RETURN_IF_ERROR(device.write({left}, std::as_bytes(std::span(a))));
  SPORKLE_RETURN_IF_ERROR(device.write({right}, std::as_bytes(std::span(b))));
  hal::CommandBuffer commands;
  commands.dispatch(executable, {{left}, {right}, {product}}, {static_cast<uint64_t>(n / 256)});
  const auto multiply = [&]() -> Status {
    SPORKLE_RETURN_IF_ERROR(device.submit(commands));
    return device.wait_idle();
  };
  for (int warm_up = 0; warm_up < kMatrixWarmUps; ++warm_up) SPORKLE_RETURN_IF_ERROR(multiply());
  SPORKLE_ASSIGN_OR_RETURN(const double seconds, best_seconds(device, multiply));
  std::vector<float> found(static_cast<size_t>(n));
  for (const int64_t row : {int64_t{0}, n - 1}) {
    SPORKLE_RETURN_IF_ERROR(
        device.read({product, static_cast<uint64_t>(4 * row * n)}, std::as_writable_bytes(std::span(found))));
    std::vector<double> sums(static_cast<size_t>(n));
    for (int64_t k = 0; k < n; ++k)
      for (int64_t j = 0; j < n; ++j)
        sums[static_cast<size_t>(j)] +=
            number(a[static_cast<size_t>(row * n + k)]) * number(b[static_cast<size_t>(k * n + j)]);
    for (size_t j = 0; j < sums.size(); ++j)
      if (!(std::abs(static_cast<double>(found[j]) - sums[j]) < 1e-5 * static_cast<double>(n)))
        return internal_error("device " + device.info().id + "'s matrix units computed a wrong product");
  }
  return seconds;
}

}  // namespace

Result<DeviceRates> measure_rates(std::string_view device_id) {
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<tensor::Context> context, tensor::Context::open(device_id));
  hal::Device& device = context->device();
  DeviceRates rates;
  for (int64_t n = 128; n <= kLargest; n *= 2) {
    SPORKLE_ASSIGN_OR_RETURN(const double seconds, product_seconds(*context, n));
    rates.gemm_flops_per_second = 2.0 * std::pow(static_cast<double>(n), 3) / seconds;
    if (seconds > kLongEnough_s) break;
  }

  if (context->is_gpu()) {
    SPORKLE_ASSIGN_OR_RETURN(const auto target, codegen::VulkanTarget::parse(device.info().target));
    if (target.matrix_bf16 || target.matrix_f16) {
      const ir::DType type = target.matrix_bf16 ? ir::DType::bf16 : ir::DType::f16;
      for (const auto& [n, rate] : {std::pair(int64_t{4096}, &rates.matrix_4096_flops_per_second),
                                    {int64_t{8192}, &rates.matrix_8192_flops_per_second}}) {
        SPORKLE_ASSIGN_OR_RETURN(const double seconds, matrix_seconds(*context, type, n));
        *rate = 2.0 * std::pow(static_cast<double>(n), 3) / seconds;
      }
    }
  }

  SPORKLE_ASSIGN_OR_RETURN(const hal::BufferRef from, device.allocate(kCopiedBytes));
  SPORKLE_ASSIGN_OR_RETURN(const hal::BufferRef to, device.allocate(kCopiedBytes));
  hal::CommandBuffer commands;
  commands.fill({from}, kCopiedBytes, 7);
  SPORKLE_RETURN_IF_ERROR(device.submit(commands));
  SPORKLE_RETURN_IF_ERROR(device.wait_idle());
  commands.clear();
  commands.copy({from}, {to}, kCopiedBytes);
  SPORKLE_ASSIGN_OR_RETURN(const double copy_seconds, best_seconds(device, [&]() -> Status {
                             SPORKLE_RETURN_IF_ERROR(device.submit(commands));
                             return device.wait_idle();
                           }));
  rates.copy_bytes_per_second = 2.0 * static_cast<double>(kCopiedBytes) / copy_seconds;
  return rates;
}

}  // namespace sporkle::app
