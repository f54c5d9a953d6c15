// Groups over real TCP: threads of this process, and processes that die.
#include "mesh/reduction_group.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <thread>

#include "base/seconds.h"
#include "mesh/reduction_join.h"

namespace sporkle::mesh {
namespace {

using std::chrono::milliseconds;

// Sums modulo 256, so that this test needs no numbers of more than one byte.
void add_bytes(std::span<const size_t>, std::span<const std::byte* const> inputs, std::span<std::byte> sum) {
  for (size_t at = 0; at < sum.size(); ++at) {
    unsigned total = 0;
    for (const std::byte* input : inputs) total = total * 3 + std::to_integer<unsigned>(input[at]);  // order matters
    sum[at] = static_cast<std::byte>(total);
  }
}

struct Node {
  Identity identity;
  std::optional<ReductionListener> listener;
};

struct Nodes {
  std::vector<Node> nodes;  // by rising ID
  std::vector<ReductionMember> members;

  // The last `clients` of them do not listen.
  explicit Nodes(size_t count, size_t clients = 0) {
    std::vector<Identity> keys;
    for (size_t i = 0; i < count; ++i) keys.push_back(*Identity::generate());
    std::sort(keys.begin(), keys.end(), [](const Identity& a, const Identity& b) { return a.id() < b.id(); });
    for (size_t i = 0; i < count; ++i) {
      nodes.push_back({keys[i], std::nullopt});
      members.push_back({keys[i].id(), std::nullopt});
      if (i + clients >= count) continue;
      auto listener = ReductionListener::open("127.0.0.1", 0);
      EXPECT_TRUE(listener.ok()) << listener.status().to_string();
      members[i].address = Address{"127.0.0.1", listener->port()};
      nodes[i].listener = std::move(*listener);
    }
  }
  Result<std::unique_ptr<ReductionGroup>> join(size_t node, const ReductionGroupOptions& options) {
    return ReductionGroup::join(nodes[node].identity, members, std::move(nodes[node].listener), options);
  }
};

std::vector<std::byte> input_of(size_t node, size_t operation, size_t size) {
  std::vector<std::byte> input(size);
  uint32_t word = static_cast<uint32_t>(node * 100 + operation + 1);
  for (std::byte& byte : input) byte = static_cast<std::byte>((word = word * 1664525 + 1013904223) >> 24);
  return input;
}

std::vector<std::byte> expected_of(const std::vector<size_t>& nodes, size_t operation, size_t size) {
  std::vector<std::vector<std::byte>> inputs;
  std::vector<const std::byte*> pointers;
  for (const size_t node : nodes) inputs.push_back(input_of(node, operation, size));
  for (const auto& input : inputs) pointers.push_back(input.data());
  std::vector<std::byte> sum(size);
  add_bytes({}, pointers, sum);
  return sum;
}

void everybody_reduces(Nodes& nodes, const ReductionGroupOptions& options, size_t size) {
  std::vector<size_t> all(nodes.nodes.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  std::vector<std::thread> threads;
  for (const size_t node : all) {
    threads.emplace_back([&, node] {
      auto group = nodes.join(node, options);
      ASSERT_TRUE(group.ok()) << group.status().to_string();
      for (size_t operation = 0; operation < 3; ++operation) {
        std::vector<std::byte> output(size);
        const auto contributors = (*group)->all_reduce(input_of(node, operation, size), output, add_bytes);
        ASSERT_TRUE(contributors.ok()) << contributors.status().to_string();
        EXPECT_EQ(contributors->size(), all.size());
        EXPECT_TRUE(output == expected_of(all, operation, size)) << "node " << node << ", operation " << operation;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(ReductionGroup, ReducesEncrypted) {
  Nodes nodes(4);
  everybody_reduces(nodes, {}, 3'000'001);
}

TEST(ReductionGroup, ReducesInPlainTextWhereAllAskForIt) {
  Nodes nodes(3);
  everybody_reduces(nodes, {.plaintext_for_benchmark = true}, 3'000'001);
}

TEST(ReductionGroup, SomeOnlySendAndFetch) {
  Nodes nodes(5, 3);
  everybody_reduces(nodes, {}, 1'000'000);
}

TEST(ReductionGroup, OneByteIsEnough) {
  Nodes nodes(3);
  everybody_reduces(nodes, {}, 1);
}

// Processes, one of which ends without a word in the middle of the first operation: in its own addition.
void one_dies(size_t count, size_t clients, size_t victim, bool plaintext) {
  SCOPED_TRACE("victim " + std::to_string(victim));
  constexpr size_t kSize = 8'000'000;
  Nodes nodes(count, clients);
  ReductionGroupOptions options;
  options.plaintext_for_benchmark = plaintext;
  options.reduction.least_members = 2;
  std::vector<size_t> survivors, all;
  for (size_t i = 0; i < count; ++i) all.push_back(i);
  for (size_t i = 0; i < count; ++i)
    if (i != victim) survivors.push_back(i);
  std::vector<pid_t> children;
  for (size_t node = 0; node < count; ++node) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child > 0) {
      children.push_back(child);
      continue;
    }
    auto group = nodes.join(node, options);
    if (!group.ok()) ::_exit(10);
    size_t chunks = 0;
    const auto add = [&](std::span<const size_t> m, std::span<const std::byte* const> i, std::span<std::byte> s) {
      if (node == victim && ++chunks == 3) ::_exit(99);
      add_bytes(m, i, s);
    };
    for (size_t operation = 0; operation < 2; ++operation) {
      std::vector<std::byte> output(kSize);
      const double start_s = now_s();
      const auto contributors = (*group)->all_reduce(input_of(node, operation, kSize), output, add);
      if (!contributors.ok()) ::_exit(11);
      if (contributors->size() != survivors.size()) ::_exit(12);
      if (output != expected_of(survivors, operation, kSize)) ::_exit(13);
      if (now_s() - start_s > 10) ::_exit(14);
    }
    ::_exit(0);
  }
  for (size_t node = 0; node < count; ++node) {
    int status = 0;
    ASSERT_EQ(::waitpid(children[node], &status, 0), children[node]);
    ASSERT_TRUE(WIFEXITED(status)) << "node " << node;
    EXPECT_EQ(WEXITSTATUS(status), node == victim ? 99 : 0) << "node " << node;
  }
}

TEST(ReductionGroup, SurvivesTheDeathOfAProcess) {
  for (size_t victim = 0; victim < 4; ++victim) one_dies(4, 0, victim, victim % 2);
  one_dies(5, 2, 1, false);
}

TEST(ReductionGroup, GoesOnWithoutOneThatNeverComes) {
  Nodes nodes(3);
  ReductionGroupOptions options;
  options.connect_timeout = milliseconds(300);
  std::vector<std::thread> threads;
  for (const size_t node : {0, 2}) {
    threads.emplace_back([&, node] {
      auto group = nodes.join(node, options);
      ASSERT_TRUE(group.ok());
      std::vector<std::byte> output(1000);
      const auto contributors = (*group)->all_reduce(input_of(node, 0, 1000), output, add_bytes);
      ASSERT_TRUE(contributors.ok()) << contributors.status().to_string();
      EXPECT_EQ(contributors->size(), 2u);
      EXPECT_TRUE(output == expected_of({0, 2}, 0, 1000));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// How somebody who claims to be a member says so.
enum class Claim { with_the_key, with_another_key, in_plain_text, of_another_group };

// Whether member `1 - claimant` of two takes the claimant for what it says. It says the right thing in every other way,
// at the member's address: with the key it is let in.
bool is_let_in(size_t claimant, Claim claim) {
  Nodes nodes(2);
  const ReductionOptions options;
  ReductionOptions others;
  others.window_chunks = options.window_chunks + 1;
  const Digest group = reduction_group_digest(nodes.members, options);
  const Digest another = reduction_group_digest(nodes.members, others);
  std::shared_ptr<const TlsContext> its_tls;
  if (claim != Claim::in_plain_text)
    its_tls =
        *TlsContext::create(claim == Claim::with_another_key ? *Identity::generate() : nodes.nodes[claimant].identity);
  std::thread thread([&] {
    (void)join_reduction(nodes.members, claimant, &*nodes.nodes[claimant].listener, its_tls,
                         claim == Claim::of_another_group ? another : group, milliseconds(1000));
  });
  const size_t self = 1 - claimant;
  // With the key it takes as long as the handshake; otherwise all of the time.
  const auto streams =
      join_reduction(nodes.members, self, &*nodes.nodes[self].listener, *TlsContext::create(nodes.nodes[self].identity),
                     group, milliseconds(claim == Claim::with_the_key ? 5000 : 500));
  thread.join();
  return streams[claimant] != nullptr;
}

// Of two, the higher calls and the lower is called: a stranger may do either.
TEST(ReductionGroup, StrangersAreNotLetIn) {
  for (const size_t claimant : {0, 1}) {
    SCOPED_TRACE(claimant);
    EXPECT_TRUE(is_let_in(claimant, Claim::with_the_key));
    EXPECT_FALSE(is_let_in(claimant, Claim::with_another_key));
    EXPECT_FALSE(is_let_in(claimant, Claim::in_plain_text));
    EXPECT_FALSE(is_let_in(claimant, Claim::of_another_group));
  }
}

// A member that only a stranger claims to be is lost, as one that never comes, and the others go on.
TEST(ReductionGroup, GoesOnBesideAStranger) {
  Nodes nodes(3);
  ReductionGroupOptions options;
  options.connect_timeout = milliseconds(500);
  const Digest digest = reduction_group_digest(nodes.members, options.reduction);
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    (void)join_reduction(nodes.members, 1, &*nodes.nodes[1].listener, *TlsContext::create(*Identity::generate()),
                         digest, milliseconds(1000));
  });
  for (const size_t node : {0, 2}) {
    threads.emplace_back([&, node] {
      auto group = nodes.join(node, options);
      ASSERT_TRUE(group.ok());
      std::vector<std::byte> output(1000);
      const auto contributors = (*group)->all_reduce(input_of(node, 0, 1000), output, add_bytes);
      ASSERT_TRUE(contributors.ok()) << contributors.status().to_string();
      EXPECT_EQ(*contributors, (std::vector<NodeId>{nodes.members[0].id, nodes.members[2].id}));
      EXPECT_TRUE(output == expected_of({0, 2}, 0, 1000));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// The vector of docs/protocol.md, made with another implementation.
TEST(ReductionGroup, HasTheDigestOfTheProtocol) {
  std::vector<ReductionMember> members(2);
  members[0].id.bytes.fill(std::byte{0x11});
  members[0].address = Address{"192.0.2.1", 1};
  members[1].id.bytes.fill(std::byte{0x22});
  ReductionOptions options;
  options.chunk_bytes = 131072;
  options.window_chunks = 16;
  EXPECT_EQ(to_hex(reduction_group_digest(members, options)),
            "aca20a064842689034aa2a1a1447f9be0a5b1d39a67574f9d01620c40f2f817f");
  options.window_chunks = 15;
  EXPECT_NE(to_hex(reduction_group_digest(members, options)),
            "aca20a064842689034aa2a1a1447f9be0a5b1d39a67574f9d01620c40f2f817f");
}

TEST(ReductionGroup, SaysWhatItCannotDo) {
  Nodes nodes(2), others(1);
  const auto code = [&](const Identity& identity, const std::vector<ReductionMember>& members) {
    return ReductionGroup::join(identity, members, std::nullopt, {}).status().code();
  };
  EXPECT_EQ(code(others.nodes[0].identity, nodes.members), Code::permission_denied);
  EXPECT_EQ(code(nodes.nodes[0].identity, nodes.members), Code::invalid_argument);  // no listener
  EXPECT_EQ(code(nodes.nodes[0].identity, {nodes.members[0], nodes.members[0]}), Code::invalid_argument);
  EXPECT_EQ(code(nodes.nodes[0].identity, {{nodes.members[0].id, std::nullopt}}), Code::invalid_argument);
  auto alone = others.join(0, {});
  ASSERT_TRUE(alone.ok());
  std::vector<std::byte> input(10), output(9);
  EXPECT_EQ((*alone)->all_reduce(input, output, add_bytes).status().code(), Code::invalid_argument);
  EXPECT_EQ((*alone)->all_reduce({}, {}, add_bytes).status().code(), Code::invalid_argument);
  output.resize(10);
  EXPECT_TRUE((*alone)->all_reduce(input, output, add_bytes).ok());
}

}  // namespace
}  // namespace sporkle::mesh
