// What compression dropped so far, added to the next message, so that nothing is lost over time (Seide et al. 2014,
// "1-bit stochastic gradient descent"; arXiv 1901.09847). Belongs to one thread at a time.
//
//   encode(update)  message = Q(residual + update); the new residual waits
//   commit()        the message was taken: residual = (residual + update) - what the message says
//   fold()          the message came too late: residual = residual + update, all of it goes with the next one
//   discard()       the message was refused: as if encode had never been called
//
// The form Q may change from message to message.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "base/status.h"
#include "train/compression.h"

namespace sporkle::train {

class ErrorFeedback {
 public:
  explicit ErrorFeedback(size_t count) : residual_(count, 0.0f) {}

  size_t size() const { return residual_.size(); }
  std::span<const float> residual() const { return residual_; }
  // Replaces the residual, for resuming; invalid_argument when the size differs.
  Status restore(std::span<const float> residual);
  void reset();

  // Fails like compress().
  Result<std::vector<std::byte>> encode(std::span<const float> update, Compression compression = Compression::int8);
  // Each is called at most once after an encode(); without one they do nothing.
  void commit();
  void fold();
  void discard();

 private:
  std::vector<float> residual_;
  std::vector<float> sum_;          // residual + update of the message under way; empty when there is none
  std::vector<std::byte> message_;  // its encoded form
};

}  // namespace sporkle::train
