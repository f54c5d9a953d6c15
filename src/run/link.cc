#include "run/link.h"

#include <algorithm>

namespace sporkle::run {
namespace {

constexpr size_t kLeastBytes = size_t{16} << 10;
constexpr double kShortest = 1e-4;  // seconds; what is faster cannot be told apart
constexpr size_t kKept = 4;
constexpr double kShortestTraining = 0.5;  // seconds
constexpr double kShareOfTraining = 0.1, kShareToGoBack = 0.05;

}  // namespace

void UploadMeter::sent(size_t bytes, double seconds) {
  if (bytes < kLeastBytes) return;
  speeds_.push_back(static_cast<double>(bytes) / std::max(seconds, kShortest));
  if (speeds_.size() > kKept) speeds_.pop_front();
}

double UploadMeter::bytes_per_second() const { return speeds_.empty() ? 0 : std::ranges::max(speeds_); }

train::Compression choose_compression(size_t count, double bytes_per_second, double training_seconds,
                                      train::Compression previous) {
  using train::Compression;
  if (!(bytes_per_second > 0) || !(training_seconds > 0)) return Compression::int8;
  const size_t before = train::compressed_size_bytes(previous, count);
  for (const Compression form : {Compression::int8, Compression::int4, Compression::sign}) {
    const size_t bytes = train::compressed_size_bytes(form, count);
    const double share = bytes > before ? kShareToGoBack : kShareOfTraining;
    if (static_cast<double>(bytes) / bytes_per_second <= share * std::max(training_seconds, kShortestTraining))
      return form;
  }
  return Compression::topk;
}

}  // namespace sporkle::run
