// What workers say of a reduction between them, in any order and of any size: nothing but an honest one is complete and
// passes. The bytes are commands; four workers with updates of their own are behind them.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "run/commitment.h"
#include "run/round_reduction.h"
#include "train/diloco.h"

using namespace sporkle;

namespace {

constexpr size_t kCount = 2 * run::kCommitmentChunk + 5;
constexpr size_t kWorkers = 4;

mesh::NodeId node(size_t i) {
  mesh::NodeId id{};
  id.bytes[0] = static_cast<std::byte>(i + 1);
  return id;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto all = std::as_bytes(std::span(data, size));
  if (const auto norm = run::committed_norm(all, size / 36 * run::kCommitmentChunk); norm.ok() && !(*norm >= 0))
    std::abort();

  std::vector<std::vector<float>> updates;
  std::vector<run::RoundReduction::Member> members;
  for (size_t i = 0; i < kWorkers; ++i) {
    updates.emplace_back(kCount, static_cast<float>(i + 1));
    members.push_back({node(i), "lease", 10, std::nullopt, run::commit_to(updates[i])});
  }
  run::RoundReduction reduction(1, kCount, members, {0, 2}, {});
  size_t at = 0;
  const auto next = [&] { return at < size ? data[at++] : uint8_t{0}; };
  bool told_wrong = false;
  while (at < size) {
    const uint8_t command = next();
    const size_t who = command / 8 % (kWorkers + 1);  // one too many
    if (command % 8 == 0) reduction.gone(node(who));
    if (command % 8 == 1) reduction.could_not(node(who));
    if (command % 8 == 2 || command % 8 == 3) {
      const uint8_t set = next();
      const uint8_t change = next();
      std::vector<mesh::NodeId> contributors;
      for (size_t i = 0; i < kWorkers; ++i)
        if (set >> i & 1) contributors.push_back(node(i));
      train::WeightedMean mean(kCount, std::max<uint64_t>(10 * contributors.size(), 1));
      for (size_t i = 0; i < kWorkers; ++i)
        if (set >> i & 1) mean.add(updates[i], 10);
      std::vector<float> values(mean.mean().begin(), mean.mean().end());
      Digest digest = sha256(std::as_bytes(std::span(values)));
      const auto place = std::ranges::find(contributors, node(who));
      if (place != contributors.end()) {
        const auto rank = static_cast<size_t>(place - contributors.begin());
        size_t begin = run::slice_begin(kCount, rank, contributors.size());
        size_t end = run::slice_begin(kCount, rank + 1, contributors.size());
        if (change == 1) digest[0] ^= std::byte{1};
        if (change == 2) values[begin] += 1;
        if (change == 3) end -= 1;
        told_wrong |= change >= 1 && change <= 3 && reduction.awaits(node(who));
        reduction.reduced(node(who), digest, contributors,
                          std::as_bytes(std::span(values).subspan(begin, end - begin)));
      } else {
        reduction.reduced(node(who), digest, contributors, all.subspan(0, std::min<size_t>(size, change)));
      }
    }
    if (command % 8 == 4 || command % 8 == 5) {
      std::vector<std::byte> shown;
      for (const uint32_t chunk : reduction.audited()) {
        const auto bytes = std::as_bytes(run::commitment_chunk(updates[who % kWorkers], chunk));
        shown.insert(shown.end(), bytes.begin(), bytes.end());
      }
      if (next() == 1) shown.resize(shown.size() - 1);
      reduction.shown(node(who), shown);
    }
  }
  if (!reduction.complete()) return 0;
  if (reduction.contributors().size() * 2 <= kWorkers || !reduction.failure().empty()) std::abort();
  if (reduction.verify().ok() == told_wrong) std::abort();
  return 0;
}
