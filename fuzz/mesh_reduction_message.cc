// Headers of a reduction from the network, on their own and as a group's member takes them: what decodes encodes to the
// same bytes, and no sequence of messages makes a member write outside of its memory or stop obeying its own rules.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "mesh/reduction.h"

namespace {

using sporkle::mesh::Reduction;
using sporkle::mesh::reduction_header_bytes;
using sporkle::mesh::ReductionKind;
using sporkle::mesh::ReductionMessage;

constexpr size_t kMembers = 4;

void first_of_inputs(std::span<const size_t>, std::span<const std::byte* const> inputs, std::span<std::byte> sum) {
  std::copy_n(inputs[0], sum.size(), sum.begin());
}

// Seven bytes make a message that is near enough to a true one to get far.
ReductionMessage message_from(std::span<const uint8_t, 7> bytes) {
  ReductionMessage message;
  message.kind = static_cast<ReductionKind>(2 + bytes[0] % 9);
  message.done = bytes[0] & 0x80;
  message.operation = bytes[1] % 4;
  message.view = bytes[2] == 255 ? ~uint64_t{0} : bytes[2];
  message.members = bytes[3];
  message.accepted = bytes[4];
  message.chunk = bytes[5] % 20;
  if (message.kind <= ReductionKind::result) message.payload_bytes = bytes[6] % 8 ? 64 : 1 + bytes[6];
  return message;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size >= reduction_header_bytes) {
    std::array<std::byte, reduction_header_bytes> header, again;
    std::memcpy(header.data(), data, header.size());
    if (const auto decoded = sporkle::mesh::decode_reduction(header); decoded.ok()) {
      sporkle::mesh::encode_reduction(*decoded, again);
      if (header != again) std::abort();
    }
  }
  const size_t self = size ? data[0] % kMembers : 0;
  Reduction core(kMembers, 0x7, self, {.chunk_bytes = 64, .window_chunks = 2});
  std::vector<std::byte> input(900), output(900);
  Reduction::TimePoint now{};
  core.begin(input, output, first_of_inputs, now);
  for (size_t at = 1; at + 8 <= size; at += 8) {
    const size_t peer = (self + 1 + data[at] % (kMembers - 1)) % kMembers;
    const ReductionMessage message = message_from(std::span<const uint8_t, 7>(data + at + 1, 7));
    now += std::chrono::milliseconds(data[at] >> 2);
    core.tick(now);
    const Reduction::Place place = core.accept(peer, message, now);
    if (place.arrival == Reduction::Arrival::refuse) core.lost(peer, now);
    if (place.arrival == Reduction::Arrival::store) {
      if (place.into.size() != message.payload_bytes) std::abort();
      std::fill(place.into.begin(), place.into.end(), std::byte{1});
    }
    if (place.arrival == Reduction::Arrival::store || place.arrival == Reduction::Arrival::discard)
      core.received(peer, message, now);
    ReductionMessage out;
    std::span<const std::byte> payload;
    for (size_t to = 0; to < kMembers; ++to)
      while (core.next_output(to, out, payload))
        if (payload.size() != out.payload_bytes) std::abort();
    if (!core.failure().ok()) return 0;
    if (core.finished() && core.operation() < 3) core.begin(input, output, first_of_inputs, now);
  }
  return 0;
}
