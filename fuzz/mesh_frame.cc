// The frame decoder on raw bytes, and on bytes that arrive in two parts: both must see the same frames.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include "mesh/frame.h"

namespace {

using sporkle::mesh::Frame;
using sporkle::mesh::FrameDecoder;

size_t count_frames(FrameDecoder& decoder) {
  size_t frames = 0;
  for (;;) {
    Frame frame;
    const auto whole = decoder.next(frame);
    if (!whole.ok() || !whole.value()) return frames;
    if (frame.data.size() > (size_t{2} << 20)) std::abort();
    frames += frame.more ? 0 : 1;
  }
}

// The data of all frames, one behind the other.
void take_data(FrameDecoder& decoder, std::vector<std::byte>& data) {
  for (;;) {
    Frame frame;
    const auto whole = decoder.next(frame);
    if (!whole.ok() || !whole.value()) return;
    data.insert(data.end(), frame.data.begin(), frame.data.end());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  FrameDecoder at_once;
  at_once.push(bytes);
  const size_t expected = count_frames(at_once);
  const size_t cut = size ? data[0] % size : 0;
  FrameDecoder in_parts;
  in_parts.push(bytes.first(cut));
  size_t frames = count_frames(in_parts);
  in_parts.push(bytes.subspan(cut));
  frames += count_frames(in_parts);
  if (frames != expected) std::abort();

  // Bytes one by one: a chunk in parts has all of its data, in order.
  FrameDecoder one_by_one;
  std::vector<std::byte> whole_data, part_data;
  FrameDecoder again;
  again.push(bytes);
  take_data(again, whole_data);
  for (size_t i = 0; i < std::min<size_t>(size, 4096); ++i) {
    one_by_one.push(bytes.subspan(i, 1));
    take_data(one_by_one, part_data);
  }
  if (size <= 4096 && part_data != whole_data) std::abort();

  // And what is encoded comes back.
  for (const bool compress : {false, true}) {
    std::vector<std::byte> wire;
    const auto chunk = bytes.first(std::min(size, sporkle::mesh::max_chunk_bytes));
    sporkle::mesh::encode_frame({sporkle::mesh::FrameKind::chunk, sporkle::mesh::protocol_major, size, chunk}, compress,
                                wire);
    FrameDecoder decoder;
    decoder.push(wire);
    Frame frame;
    const auto whole = decoder.next(frame);
    if (!whole.ok() || !whole.value() || frame.call_id != size) std::abort();
    if (!std::equal(frame.data.begin(), frame.data.end(), chunk.begin(), chunk.end())) std::abort();
  }
  return 0;
}
