// Runs one region of code a fixed number of times inside a function that callgrind counts in:
//
//   count_instructions --list
//   count_instructions REGION [--slowdown]
//
// tools/instruction_counts.py runs it under valgrind. The first run, before the counted ones, fills the kernel cache.
// --slowdown runs the region three times more than the twenty times that count, a planted 15 %.
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dsl/kernel.h"
#include "lower/lower.h"
#include "mesh/frame.h"
#include "nn/adamw.h"
#include "nn/gpt.h"
#include "tensor/autograd.h"
#include "tensor/context.h"
#include "tensor/layers.h"
#include "tensor/random.h"

// What valgrind's --toggle-collect names.
extern "C" __attribute__((noinline)) void sporkle_counted_region(const std::function<void()>& body, int times) {
  for (int i = 0; i < times; ++i) body();
}

namespace sporkle {
namespace {

using tensor::Context;
using tensor::Tensor;

constexpr int kTimes = 20, kSlowdown = 3;

void require(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "count_instructions: %s\n", status.to_string().c_str());
  std::exit(1);
}

std::shared_ptr<Context> open(std::string_view device) {
  auto context = Context::open(device, {.threads = 1});
  require(context.status());
  return std::move(*context);
}

Tensor random(Context& context, const tensor::Shape& shape, uint64_t stream) {
  const Tensor x = tensor::uniform(context, shape, {1, stream, 0}) - 0.5;
  require(tensor::realize({x}));
  return x;
}

// The tensor that `make` gives, computed and waited for.
template <typename Make>
std::function<void()> computed(std::shared_ptr<Context> context, Make make) {
  return [context, make] {
    require(tensor::realize({make()}));
    require(context->wait());
  };
}

std::function<void()> product(int64_t rows, int64_t columns, int64_t depth) {
  const auto context = open("cpu");
  const Tensor a = random(*context, {rows, depth}, 1), b = random(*context, {depth, columns}, 2);
  return computed(context, [a, b] { return tensor::matmul(a, b); });
}

// One step of a small GPT: forward, backward, clipping and AdamW.
std::function<void()> training_step(std::string_view device) {
  const auto context = open(device);
  auto model = nn::Gpt::create(*context, {.layers = 2, .heads = 2, .width = 32, .context = 32, .vocab_size = 64}, 1);
  require(model.status());
  const auto gpt = std::make_shared<nn::Gpt>(std::move(*model));
  const auto adamw = std::make_shared<nn::AdamW>(*context, nn::AdamWConfig{}, gpt->parameters());
  std::vector<int32_t> ids(2 * 33);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 7 % 64);
  const Tensor all = tensor::from_host<int32_t>(*context, ids, {2, 33});
  return [context, gpt, adamw, all] {
    const Tensor loss = gpt->loss(all.slice(1, 0, 32), all.slice(1, 1, 32));
    const auto gradients = tensor::grad(loss, nn::values(gpt->parameters()));
    require(gradients.status());
    adamw->update(gpt->parameters(), *gradients, 1e-3);
    std::vector<Tensor> wanted = nn::values(gpt->parameters());
    adamw->append_state(&wanted);
    wanted.push_back(loss);
    require(tensor::realize(wanted));
    require(context->wait());
  };
}

std::function<void()> trace_and_lower() {
  return [] {
    const ir::Kernel kernel = dsl::trace("product", [](dsl::KernelBuilder& k) {
      const dsl::Expr rows = k.size("rows"), columns = k.size("columns"), depth = k.size("depth");
      const dsl::Buffer a = k.input(ir::DType::f32, "a"), b = k.input(ir::DType::f32, "b");
      const dsl::Buffer c = k.output(ir::DType::f32, "c");
      k.range("m", rows, [&](dsl::Expr m) {
        k.range("n", columns, [&](dsl::Expr n) {
          const dsl::Expr sum = k.fma_chain("k", depth, dsl::constant(ir::DType::f32, 0), [&](dsl::Expr i) {
            return std::pair(a[m * depth + i], b[i * columns + n]);
          });
          c.store(m * columns + n, tanh(sum));
        });
      });
    });
    const auto schedule = lower::Schedule::parse("m:tile5 n:vec16x4 k:unroll4");
    require(schedule.status());
    require(lower::lower(kernel, *schedule).status());
  };
}

std::function<void()> frames() {
  const auto data = std::make_shared<std::vector<std::byte>>(size_t{100} << 10);
  for (size_t i = 0; i < data->size(); ++i) (*data)[i] = static_cast<std::byte>(i * i >> 7);
  return [data] {
    std::vector<std::byte> wire;
    mesh::encode_frame({.kind = mesh::FrameKind::chunk, .call_id = 1, .data = *data}, false, wire);
    mesh::FrameDecoder decoder;
    decoder.push(wire);
    mesh::Frame frame;
    const Result<bool> whole = decoder.next(frame);
    require(whole.status());
    if (!*whole || frame.data.size() != data->size()) require(internal_error("the frame did not come back"));
  };
}

struct Region {
  std::string_view name;
  std::function<std::function<void()>()> make;
};

std::vector<Region> regions() {
  return {
      {"matrix product 96x96x96", [] { return product(96, 96, 96); }},
      {"matrix product 100x100x100", [] { return product(100, 100, 100); }},
      {"matrix times vector 1x512x512", [] { return product(1, 512, 512); }},
      {"layer norm 64x256",
       [] {
         const auto context = open("cpu");
         const Tensor x = random(*context, {64, 256}, 1), w = random(*context, {256}, 2),
                      b = random(*context, {256}, 3);
         return computed(context, [=] { return tensor::layer_norm(x, w, b, 1e-5); });
       }},
      {"causal softmax 4x64x64",
       [] {
         const auto context = open("cpu");
         const Tensor x = random(*context, {4, 64, 64}, 1);
         return computed(context, [=] { return tensor::causal_softmax(x, 0.125); });
       }},
      {"gelu(x * w + b) + x, 64x256",
       [] {
         const auto context = open("cpu");
         const Tensor x = random(*context, {64, 256}, 1), w = random(*context, {256}, 2),
                      b = random(*context, {256}, 3);
         return computed(context, [=] { return tensor::gelu(x * w + b) + x; });
       }},
      {"sum of 64x1024",
       [] {
         const auto context = open("cpu");
         const Tensor x = random(*context, {64, 1024}, 1);
         return computed(context, [=] { return tensor::sum(x); });
       }},
      {"training step of a small GPT", [] { return training_step("cpu"); }},
      {"planning a training step", [] { return training_step("null"); }},
      {"tracing and lowering a product", trace_and_lower},
      {"encoding and decoding a frame of 100 KiB", frames},
  };
}

int run(int argc, char** argv) {
  const std::string_view first = argc > 1 ? argv[1] : "";
  if (first == "--list") {
    for (const Region& region : regions()) std::printf("%s\n", std::string(region.name).c_str());
    return 0;
  }
  const bool slowdown = argc > 2 && std::string_view(argv[2]) == "--slowdown";
  for (const Region& region : regions()) {
    if (region.name != first) continue;
    const std::function<void()> body = region.make();
    body();
    body();  // the second fills what the first left for later, such as pools of memory
    sporkle_counted_region(body, kTimes + (slowdown ? kSlowdown : 0));
    return 0;
  }
  std::fprintf(stderr, "usage: count_instructions --list | REGION [--slowdown]\n");
  return 2;
}

}  // namespace
}  // namespace sporkle

int main(int argc, char** argv) { return sporkle::run(argc, argv); }
