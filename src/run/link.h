// What a worker's link can carry, and which compression of updates suits it. UploadMeter belongs to one thread.
//
// The rule: of int8, int4, sign and topk, in this order, the first whose update takes at most a tenth of the time that
// its round's training takes. Going back to a larger form needs half of that, so that a link at the border does not
// flap. A training shorter than half a second counts as half a second: a round's fixed costs are then the greater part.
// A link not measured yet has int8.
#pragma once

#include <cstddef>
#include <deque>

#include "train/compression.h"

namespace sporkle::run {

class UploadMeter {
 public:
  // A payload that went out in so many seconds, the round trip of a small message apart. Small ones say little about a
  // link and are left out.
  void sent(size_t bytes, double seconds);
  // The best of the last few: a slow one may have waited for the other side. 0: not measured.
  double bytes_per_second() const;

 private:
  std::deque<double> speeds_;
};

// For an update of `count` values after `training_seconds`; `previous` is what the last one was sent in.
train::Compression choose_compression(size_t count, double bytes_per_second, double training_seconds,
                                      train::Compression previous);

}  // namespace sporkle::run
