#include "apps/sporkle/bench_gemm.h"

#include <dlfcn.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "base/thread_pool.h"
#include "tensor/context.h"
#include "tensor/random.h"
#include "tensor/tensor.h"

namespace sporkle::app {
namespace {

using tensor::Tensor;

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

// CBLAS's sgemm out of OpenBLAS, opened at run time and never linked.
struct OpenBlas {
  static constexpr int kRowMajor = 101, kNoTranspose = 111;
  using Sgemm = void (*)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*, int);
  Sgemm sgemm = nullptr;
  std::string name;

  explicit OpenBlas(int threads) {
    void* library = ::dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      name = "no OpenBLAS here (package libopenblas0-pthread)";
      return;
    }
    sgemm = reinterpret_cast<Sgemm>(::dlsym(library, "cblas_sgemm"));
    const auto set_threads = reinterpret_cast<void (*)(int)>(::dlsym(library, "openblas_set_num_threads"));
    const auto config = reinterpret_cast<char* (*)()>(::dlsym(library, "openblas_get_config"));
    const auto core = reinterpret_cast<char* (*)()>(::dlsym(library, "openblas_get_corename"));
    if (set_threads) set_threads(threads);
    name = config ? config() : "OpenBLAS";
    while (!name.empty() && name.back() == ' ') name.pop_back();
    if (core) name += std::string(", kernel ") + core();
  }
};

}  // namespace

Result<GemmBenchResult> bench_gemm(const GemmBenchOptions& o) {
  hal::DeviceOptions device;
  device.threads = static_cast<int>(o.threads);
  SPORKLE_ASSIGN_OR_RETURN(const std::unique_ptr<tensor::Context> context, tensor::Context::open("cpu", device));
  // Realised on their own, so that a round times the product alone.
  const Tensor a = tensor::uniform(*context, {o.m, o.k}, {1, 0, 0}) - 0.5;
  const Tensor b = tensor::uniform(*context, {o.k, o.n}, {2, 0, 0}) - 0.5;
  SPORKLE_RETURN_IF_ERROR(tensor::realize({a, b}));
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> host_a, a.to_host<float>());
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> host_b, b.to_host<float>());
  const auto size = [](int64_t x) { return static_cast<size_t>(x); };

  std::vector<float> expected(size(o.m * o.n));
  ThreadPool pool(static_cast<int>(std::max<int64_t>(o.threads, 1)));
  pool.parallel_for(o.m, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t kk = 0; kk < o.k; ++kk)
        for (int64_t j = 0; j < o.n; ++j) {
          float& c = expected[size(i * o.n + j)];
          c = std::fma(host_a[size(i * o.k + kk)], host_b[size(kk * o.n + j)], c);
        }
  });
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> ours, tensor::matmul(a, b).to_host<float>());
  for (size_t i = 0; i < ours.size(); ++i)
    if (std::bit_cast<uint32_t>(ours[i]) != std::bit_cast<uint32_t>(expected[i]))
      return internal_error("element " + std::to_string(i) + " of the product is " + std::to_string(ours[i]) +
                            ", and the chain of fused multiply-adds gives " + std::to_string(expected[i]));

  const OpenBlas rival(static_cast<int>(o.threads));
  GemmBenchResult result;
  result.rival = rival.name;
  std::vector<float> theirs(ours.size(), NAN);
  std::vector<double> own_s, rival_s, ratios;
  for (int64_t round = 0; round < o.rounds; ++round) {
    const Tensor c = tensor::matmul(a, b);
    double start = now_s();
    SPORKLE_RETURN_IF_ERROR(tensor::realize({c}));
    SPORKLE_RETURN_IF_ERROR(context->wait());
    own_s.push_back(now_s() - start);
    if (!rival.sgemm) continue;
    start = now_s();
    rival.sgemm(OpenBlas::kRowMajor, OpenBlas::kNoTranspose, OpenBlas::kNoTranspose, static_cast<int>(o.m),
                static_cast<int>(o.n), static_cast<int>(o.k), 1.0f, host_a.data(), static_cast<int>(o.k), host_b.data(),
                static_cast<int>(o.n), 0.0f, theirs.data(), static_cast<int>(o.n));
    rival_s.push_back(now_s() - start);
    ratios.push_back(rival_s.back() / own_s.back());
  }
  const double work = 2.0 * static_cast<double>(o.m) * static_cast<double>(o.n) * static_cast<double>(o.k) * 1e-9;
  result.gflops = work / median(own_s);
  if (!ratios.empty()) {
    result.rival_gflops = work / median(rival_s);
    result.ratio = median(ratios);
    result.ratio_min = *std::ranges::min_element(ratios);
    result.ratio_max = *std::ranges::max_element(ratios);
    float largest = 0, difference = 0;
    for (size_t i = 0; i < theirs.size(); ++i) {
      largest = std::max(largest, std::abs(expected[i]));
      difference = std::max(difference, std::abs(theirs[i] - expected[i]));
    }
    result.rival_max_relative_error = difference / largest;
  }
  return result;
}

}  // namespace sporkle::app
