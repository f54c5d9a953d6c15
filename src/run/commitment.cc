#include "run/commitment.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "base/sha256.h"
#include "train/diloco.h"

namespace sporkle::run {
namespace {

void write_entry(std::span<const float> values, std::byte* to) {
  const Digest digest = sha256(std::as_bytes(values));
  const auto norm = static_cast<float>(train::l2_norm(values));
  std::memcpy(to, digest.data(), digest.size());
  std::memcpy(to + digest.size(), &norm, sizeof norm);
}

}  // namespace

size_t commitment_chunks(size_t count) { return (count + kCommitmentChunk - 1) / kCommitmentChunk; }

std::span<const float> commitment_chunk(std::span<const float> values, size_t chunk) {
  const size_t begin = chunk * kCommitmentChunk;
  return values.subspan(begin, std::min(kCommitmentChunk, values.size() - begin));
}

std::vector<std::byte> commit_to(std::span<const float> values) {
  const size_t chunks = commitment_chunks(values.size());
  std::vector<std::byte> commitment(chunks * kCommitmentEntryBytes);
  for (size_t chunk = 0; chunk < chunks; ++chunk)
    write_entry(commitment_chunk(values, chunk), &commitment[chunk * kCommitmentEntryBytes]);
  return commitment;
}

Result<double> committed_norm(std::span<const std::byte> commitment, size_t count) {
  const size_t chunks = commitment_chunks(count);
  if (commitment.size() != chunks * kCommitmentEntryBytes)
    return corrupt_data("a commitment of " + std::to_string(commitment.size()) + " bytes, " +
                        std::to_string(chunks * kCommitmentEntryBytes) + " belong to " + std::to_string(count) +
                        " parameters");
  double sum = 0;
  for (size_t chunk = 0; chunk < chunks; ++chunk) {
    const double norm = committed_chunk_norm(commitment, chunk);
    if (!std::isfinite(norm) || norm < 0) return corrupt_data("a commitment to an update that is not finite");
    sum += norm * norm;
  }
  return std::sqrt(sum);
}

double committed_chunk_norm(std::span<const std::byte> commitment, size_t chunk) {
  float norm;
  std::memcpy(&norm, &commitment[(chunk + 1) * kCommitmentEntryBytes - sizeof norm], sizeof norm);
  return norm;
}

bool is_committed(std::span<const std::byte> commitment, size_t chunk, std::span<const float> values) {
  std::byte entry[kCommitmentEntryBytes];
  write_entry(values, entry);
  return std::memcmp(entry, &commitment[chunk * kCommitmentEntryBytes], sizeof entry) == 0;
}

}  // namespace sporkle::run
