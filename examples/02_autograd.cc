// Lazy tensors and their gradients: finds the minimum of Rosenbrock's function by gradient descent with momentum.
//
// Operations only record what is to be computed. grad() adds the backward pass to the same graph, and realize() runs it
// all as a few fused kernels.
#include <array>
#include <cmath>
#include <cstdio>

#include "tensor/autograd.h"
#include "tensor/context.h"

using namespace sporkle;
using tensor::Tensor;

// (1 - x)^2 + 100 (y - x^2)^2, least at (1, 1).
Tensor rosenbrock(const Tensor& x, const Tensor& y) {
  const Tensor valley = y - x * x, slope = 1.0 - x;
  return slope * slope + valley * valley * 100.0;
}

int main() {
  const auto context = tensor::Context::open();
  if (!context.ok()) return std::fprintf(stderr, "%s\n", context.status().to_string().c_str()), 1;

  std::array<Tensor, 2> point, speed;
  for (Tensor& t : point) t = tensor::full(**context, {}, -1.0);
  for (Tensor& t : speed) t = tensor::full(**context, {}, 0.0);
  for (int step = 0; step <= 3000; ++step) {
    const Tensor loss = rosenbrock(point[0], point[1]);
    const auto gradients = tensor::grad(loss, point);
    if (!gradients.ok()) return std::fprintf(stderr, "%s\n", gradients.status().to_string().c_str()), 1;
    if (step % 500 == 0)
      std::printf("step %4d: f(%.5f, %.5f) = %.3g\n", step, *point[0].item(), *point[1].item(), *loss.item());
    for (size_t i = 0; i < 2; ++i) {
      // A detached tensor forgets how it was made, so the graph does not grow from step to step.
      speed[i] = (speed[i] * 0.95 - (*gradients)[i] * 5e-4).detach();
      point[i] = (point[i] + speed[i]).detach();
    }
    const Status status = tensor::realize({point[0], point[1], speed[0], speed[1]});
    if (!status.ok()) return std::fprintf(stderr, "%s\n", status.to_string().c_str()), 1;
  }
  const bool right = std::abs(*point[0].item() - 1) < 1e-3 && std::abs(*point[1].item() - 1) < 2e-3;
  std::printf(right ? "found the minimum\n" : "WRONG\n");
  return right ? 0 : 1;
}
