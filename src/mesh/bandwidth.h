// Bandwidth: how fast bytes may go to, or come from, one peer, over all of its connections together.
//
// A token bucket (token_bucket.h counts actions; this counts bytes, and lets a whole piece go when any is left, paying
// it back later). Thread-safe.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>

#include "mesh/clock.h"

namespace sporkle::mesh {

class Bandwidth {
 public:
  // 0: no limit. A tenth of a second's worth may go at once after a pause.
  explicit Bandwidth(uint64_t bytes_per_second) : rate_(static_cast<double>(bytes_per_second)), tokens_(rate_ / 10) {}

  bool limited() const { return rate_ > 0; }
  // How long to wait until bytes may go; 0: now.
  Clock::Duration wait(Clock::TimePoint now) {
    if (!limited()) return {};
    const std::lock_guard lock(mutex_);
    refill(now);
    if (tokens_ > 0) return {};
    return std::chrono::duration_cast<Clock::Duration>(std::chrono::duration<double>((1 - tokens_) / rate_));
  }
  // So many went.
  void use(size_t size_bytes, Clock::TimePoint now) {
    if (!limited()) return;
    const std::lock_guard lock(mutex_);
    refill(now);
    tokens_ -= static_cast<double>(size_bytes);
  }
  // A piece that keeps the rate even: a twentieth of a second's worth, from 1 KiB to `most`.
  size_t piece_bytes(size_t most) const {
    if (!limited()) return most;
    return std::clamp(static_cast<size_t>(std::min(rate_ / 20, 1e9)), size_t{1024}, most);
  }

 private:
  void refill(Clock::TimePoint now) {
    if (last_ != Clock::TimePoint{} && now > last_)
      tokens_ = std::min(rate_ / 10, tokens_ + rate_ * std::chrono::duration<double>(now - last_).count());
    last_ = std::max(last_, now);
  }

  const double rate_;
  std::mutex mutex_;
  double tokens_;
  Clock::TimePoint last_{};
};

// Both directions of one peer.
struct PeerBandwidth {
  PeerBandwidth(uint64_t upload_bytes_per_second, uint64_t download_bytes_per_second)
      : upload(upload_bytes_per_second), download(download_bytes_per_second) {}
  Bandwidth upload;
  Bandwidth download;
};

}  // namespace sporkle::mesh
