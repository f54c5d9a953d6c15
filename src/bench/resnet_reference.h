// A residual network's training loss in float64, by plain C++ that shares nothing with the network under test.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"

namespace sporkle::bench {

// As nn::ResNetConfig says, on square images.
struct ResNetProblem {
  int64_t images = 1, channels = 3, size = 1, classes = 10, width = 1;
  std::vector<int64_t> blocks{2, 2, 2, 2};
  double epsilon = 1e-5;
};

// Mean cross-entropy in nats an image, with norms by the statistics of these images. `parameters`: all of them in the
// order of nn::ResNet::parameters(). images: [images, channels, size, size].
double resnet_loss(ThreadPool& pool, const ResNetProblem& problem, std::span<const double> parameters,
                   std::span<const double> images, std::span<const int32_t> classes);

// Multiplications and additions of one forward pass over one image.
double resnet_flops(const ResNetProblem& problem);

}  // namespace sporkle::bench
