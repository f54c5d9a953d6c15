// Whole groups on a simulated network: random delays, members that crash, hang or lose each other at any step. Every
// run repeats exactly from its seed.
#include "mesh/reduction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <memory>
#include <optional>
#include <random>

namespace sporkle::mesh {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

void add_f32(std::span<const size_t>, std::span<const std::byte* const> inputs, std::span<std::byte> sum) {
  for (size_t at = 0; at < sum.size(); at += sizeof(float)) {
    float total = 0;
    for (size_t i = 0; i < inputs.size(); ++i) {
      float value;
      std::memcpy(&value, inputs[i] + at, sizeof value);
      total = i ? total + value : value;
    }
    std::memcpy(&sum[at], &total, sizeof total);
  }
}

struct Scenario {
  size_t members = 4;
  uint64_t reachable = 0xf;
  size_t operations = 1;
  size_t floats = 200;  // in chunks of 16
  size_t least_members = 0;
  uint64_t seed = 1;
  uint64_t crash_step = 0;  // 0: nobody
  uint64_t second_crash_step = 0;
  uint64_t hang_step = 0;        // from then on one neither sends nor receives, yet nothing closes
  uint64_t cut_step = 0;         // then the connection of two members is lost
  bool split = false;            // with cut_step: all connections between the two halves
  std::optional<size_t> victim;  // else by chance
};

struct Outcome {
  uint64_t members = 0;
  std::vector<std::byte> sum;
};

class Simulation {
 public:
  explicit Simulation(const Scenario& setup) : setup_(setup), random_(setup.seed) {
    ReductionOptions options;
    options.chunk_bytes = 64;
    options.window_chunks = 2;
    options.least_members = setup.least_members;
    options.silence_timeout = milliseconds(1000);
    options.accusation_grace = milliseconds(100);
    links_.resize(setup.members * setup.members);
    for (size_t member = 0; member < setup.members; ++member) {
      Node& node = nodes_.emplace_back();
      node.core = std::make_unique<Reduction>(setup.members, setup.reachable, member, options);
      node.output.resize(setup.floats * sizeof(float));
    }
    for (size_t from = 0; from < setup.members; ++from)
      for (size_t to = 0; to < setup.members; ++to)
        link(from, to).open = from != to && ((setup.reachable >> from | setup.reachable >> to) & 1);
    for (size_t member = 0; member < setup.members; ++member) begin(member);
  }

  // Until everybody has ended. False when it does not end.
  bool run() {
    for (uint64_t step = 1; step < 400'000; ++step) {
      disturb(step);
      now_ += microseconds(step % 64 ? 20 : 500);
      if (step % 16 == 0) {
        for (size_t member = 0; member < nodes_.size(); ++member)
          if (active(member)) nodes_[member].core->tick(now_);
      }
      if (std::none_of(nodes_.begin(), nodes_.end(), [](const Node& n) { return !n.dead && !n.hung && !n.over; }))
        return steps_ = step, true;
      act(below(nodes_.size()), below(nodes_.size()));
      advance(below(nodes_.size()));
    }
    return false;
  }

  // All that ended an operation, those that died later too, ended it alike, and with the sum of what they say.
  void check() const {
    for (size_t operation = 0; operation < setup_.operations; ++operation) {
      const Outcome* first = nullptr;
      for (const Node& node : nodes_) {
        if (node.outcomes.size() <= operation) continue;
        const Outcome& outcome = node.outcomes[operation];
        if (!first) first = &outcome;
        ASSERT_EQ(outcome.members, first->members);
        ASSERT_EQ(outcome.sum, expected(outcome.members, operation));
      }
    }
  }
  size_t ended(size_t operation) const {
    return std::count_if(nodes_.begin(), nodes_.end(), [&](const Node& n) { return n.outcomes.size() > operation; });
  }
  const std::vector<Outcome>& outcomes(size_t member) const { return nodes_[member].outcomes; }
  const Status& failure(size_t member) const { return nodes_[member].core->failure(); }
  bool crashed(size_t member) const { return nodes_[member].dead; }
  bool lost_one(size_t member) const { return crashed(member) || nodes_[member].hung; }
  uint64_t steps() const { return steps_; }

  std::vector<std::byte> expected(uint64_t members, size_t operation) const {
    std::vector<std::vector<std::byte>> inputs;
    std::vector<const std::byte*> pointers;
    std::vector<size_t> numbers;
    for (size_t member = 0; member < setup_.members; ++member)
      if (members >> member & 1) inputs.push_back(input(member, operation));
    for (const auto& one : inputs) pointers.push_back(one.data());
    std::vector<std::byte> sum(setup_.floats * sizeof(float));
    add_f32(numbers, pointers, sum);
    return sum;
  }

 private:
  struct Packet {
    ReductionMessage message;
    std::vector<std::byte> payload;
  };
  struct Link {
    bool open = false;
    bool closing = false;  // the end follows the packets
    std::deque<Packet> packets;
    std::optional<Reduction::Place> place;  // of the first packet, half of which is here
    uint64_t epoch = 0;
  };
  struct Node {
    std::unique_ptr<Reduction> core;
    std::vector<std::byte> input, output;
    std::vector<Outcome> outcomes;
    bool dead = false, hung = false, over = false, idle = false;
  };

  size_t below(size_t n) { return random_() % n; }
  Link& link(size_t from, size_t to) { return links_[from * nodes_size() + to]; }
  size_t nodes_size() const { return setup_.members; }
  bool active(size_t member) const { return !nodes_[member].dead && !nodes_[member].hung && !nodes_[member].over; }

  // Sums whose bits show the order in which they were made.
  std::vector<std::byte> input(size_t member, size_t operation) const {
    std::mt19937_64 numbers(setup_.seed * 1000 + operation * 100 + member);
    std::vector<float> values(setup_.floats);
    for (float& value : values) value = std::ldexp(static_cast<float>(numbers() % 2000) - 1000, -7 + numbers() % 12);
    std::vector<std::byte> bytes(values.size() * sizeof(float));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  }

  void begin(size_t member) {
    Node& node = nodes_[member];
    node.idle = false;
    node.input = input(member, node.outcomes.size());
    std::fill(node.output.begin(), node.output.end(), std::byte{0xa5});
    node.core->begin(node.input, node.output, add_f32, now_);
  }

  // One thing happens, perhaps, between these two.
  void act(size_t from, size_t to) {
    Link& way = link(from, to);
    if (active(from) && way.open && !way.closing && way.packets.size() < 3) {
      Packet packet;
      std::span<const std::byte> payload;
      if (nodes_[from].core->next_output(to, packet.message, payload)) {
        packet.payload.assign(payload.begin(), payload.end());
        way.packets.push_back(std::move(packet));
      }
    }
    if (below(3) == 0) deliver(to, from);
  }

  void deliver(size_t to, size_t from) {
    Link& way = link(from, to);
    if (!active(to) || nodes_[to].idle || !way.open) return;
    Reduction& core = *nodes_[to].core;
    if (way.packets.empty()) {
      if (!way.closing) return;
      way.open = false;
      return core.lost(from, now_);
    }
    const Packet& packet = way.packets.front();
    if (!way.place) {
      const Reduction::Place place = core.accept(from, packet.message, now_);
      ASSERT_NE(place.arrival, Reduction::Arrival::refuse) << "seed " << setup_.seed;
      if (place.arrival == Reduction::Arrival::wait) return;
      way.place = place;
      way.epoch = core.epoch();
      return;
    }
    if (way.place->arrival == Reduction::Arrival::store && way.epoch == core.epoch())
      std::copy(packet.payload.begin(), packet.payload.end(), way.place->into.begin());
    way.place.reset();
    const ReductionMessage message = packet.message;
    way.packets.pop_front();
    core.received(from, message, now_);
  }

  void advance(size_t member) {
    Node& node = nodes_[member];
    if (!active(member)) return;
    if (!node.core->failure().ok()) {
      node.over = true;
      return close_all(member);
    }
    if (!node.idle) {
      if (!node.core->finished() || node.outcomes.size() == setup_.operations) return;
      // What is to be sent goes out before the caller goes on.
      for (size_t to = 0; to < nodes_.size(); ++to) {
        Link& way = link(member, to);
        Packet packet;
        std::span<const std::byte> payload;
        while (way.open && !way.closing && node.core->next_output(to, packet.message, payload))
          way.packets.push_back(packet);
      }
      node.outcomes.push_back({node.core->members(), node.output});
      node.idle = true;
      return;
    }
    if (below(4)) return;
    if (node.outcomes.size() < setup_.operations) return begin(member);
    node.over = true;
    close_all(member);
  }

  // Each end sees it after what was sent before.
  void cut(size_t a, size_t b) { link(a, b).closing = link(b, a).closing = true; }
  void close_all(size_t member) {
    for (size_t other = 0; other < nodes_.size(); ++other) cut(member, other);
  }
  void crash(size_t member) {
    nodes_[member].dead = true;
    for (size_t other = 0; other < nodes_.size(); ++other) {
      Link& way = link(member, other);
      if (way.packets.size() > 1) way.packets.resize(1 + below(way.packets.size()));  // the rest never left it
      cut(member, other);
    }
  }

  void disturb(uint64_t step) {
    const size_t victim = setup_.victim.value_or(below(nodes_.size()));
    if (step == setup_.crash_step && !nodes_[victim].over) crash(victim);
    if (step == setup_.second_crash_step) {
      const size_t second = (victim + 1 + below(nodes_.size() - 1)) % nodes_.size();
      if (active(second)) crash(second);
    }
    if (step == setup_.hang_step && active(victim)) nodes_[victim].hung = true;
    if (step != setup_.cut_step) return;
    if (!setup_.split) return cut(victim, (victim + 1 + below(nodes_.size() - 1)) % nodes_.size());
    for (size_t low = 0; low < nodes_.size() / 2; ++low)
      for (size_t high = nodes_.size() / 2; high < nodes_.size(); ++high) cut(low, high);
  }

  const Scenario setup_;
  std::mt19937_64 random_;
  Clock::TimePoint now_{};
  std::vector<Node> nodes_;
  std::vector<Link> links_;
  uint64_t steps_ = 0;
};

TEST(Reduction, EverybodyGetsTheSumWhateverTheTiming) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    Scenario setup;
    setup.seed = seed;
    setup.members = 1 + seed % 7;
    setup.reachable = 1 + seed * 7919 % ((1u << setup.members) - 1);
    setup.floats = 1 + seed * 37 % 300;
    setup.operations = 3;
    Simulation simulation(setup);
    ASSERT_TRUE(simulation.run()) << "seed " << seed;
    simulation.check();
    for (size_t operation = 0; operation < 3; ++operation) {
      ASSERT_EQ(simulation.ended(operation), setup.members) << "seed " << seed;
      ASSERT_EQ(simulation.outcomes(0)[operation].members, (uint64_t{1} << setup.members) - 1);
    }
  }
}

// Every survivor ends, and the input of every survivor is in its sums.
void survive(const Scenario& setup) {
  SCOPED_TRACE("seed " + std::to_string(setup.seed) + ", step " + std::to_string(setup.crash_step));
  Simulation simulation(setup);
  ASSERT_TRUE(simulation.run());
  simulation.check();
  for (size_t member = 0; member < setup.members; ++member) {
    if (simulation.lost_one(member)) continue;
    ASSERT_TRUE(simulation.failure(member).ok()) << member << ": " << simulation.failure(member).to_string();
    ASSERT_EQ(simulation.outcomes(member).size(), setup.operations);
    for (const Outcome& outcome : simulation.outcomes(member))
      for (size_t other = 0; other < setup.members; ++other)
        ASSERT_TRUE(simulation.lost_one(other) || outcome.members >> other & 1);
  }
}

TEST(Reduction, SurvivesACrashAtEveryStep) {
  Scenario setup;
  setup.operations = 2;
  setup.floats = 100;
  setup.seed = 5;
  Simulation undisturbed(setup);
  ASSERT_TRUE(undisturbed.run());
  for (size_t victim = 0; victim < setup.members; ++victim) {
    setup.victim = victim;
    for (setup.crash_step = 1; setup.crash_step < undisturbed.steps() && !::testing::Test::HasFatalFailure();
         setup.crash_step += 1 + setup.crash_step % 3)
      survive(setup);
  }
}

TEST(Reduction, SurvivesCrashesOfManyKinds) {
  std::mt19937_64 random(11);
  for (uint64_t seed = 1; seed <= 1500 && !::testing::Test::HasFatalFailure(); ++seed) {
    Scenario setup;
    setup.seed = seed;
    setup.members = 5 + random() % 3;
    setup.reachable = 0x7 | (random() & ((1u << setup.members) - 1));  // three, of which two may die
    setup.floats = 1 + random() % 200;
    setup.operations = 2;
    setup.crash_step = 1 + random() % 4000;
    setup.second_crash_step = setup.crash_step + random() % 1500;
    survive(setup);
  }
}

TEST(Reduction, GivesUpAMemberThatHangs) {
  for (uint64_t seed = 1; seed <= 100 && !::testing::Test::HasFatalFailure(); ++seed) {
    Scenario setup;
    setup.seed = seed;
    setup.hang_step = 1 + seed * 13;
    survive(setup);
  }
}

TEST(Reduction, OneOfTwoThatLoseEachOtherGoes) {
  size_t went = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    Scenario setup;
    setup.seed = seed;
    setup.members = 5;
    setup.reachable = 0xf;
    setup.cut_step = 1 + seed * 7;
    Simulation simulation(setup);
    ASSERT_TRUE(simulation.run()) << "seed " << seed;
    simulation.check();
    size_t failed = 0;
    for (size_t member = 0; member < 5; ++member) failed += !simulation.failure(member).ok();
    ASSERT_LE(failed, 1u) << "seed " << seed;
    went += failed;
  }
  EXPECT_GT(went, 20u);
}

TEST(Reduction, OfTwoPartsOnlyTheLargerGoesOn) {
  size_t failures = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    Scenario setup;
    setup.seed = seed;
    setup.members = 5;
    setup.reachable = 0x1f;
    setup.cut_step = 1 + seed * 7;
    setup.split = true;
    Simulation simulation(setup);
    ASSERT_TRUE(simulation.run()) << "seed " << seed;
    simulation.check();
    for (size_t member = 2; member < 5; ++member) ASSERT_TRUE(simulation.failure(member).ok()) << "seed " << seed;
    for (size_t member = 0; member < 2; ++member) {
      const Status& failure = simulation.failure(member);
      ASSERT_TRUE(failure.ok() || failure.code() == Code::unavailable);
      failures += !failure.ok();
    }
  }
  EXPECT_GT(failures, 50u);
}

TEST(Reduction, SaysWhatItCannotDo) {
  EXPECT_EQ(Reduction::check(0, 1, {}).code(), Code::invalid_argument);
  EXPECT_EQ(Reduction::check(65, 1, {}).code(), Code::invalid_argument);
  EXPECT_EQ(Reduction::check(3, 0, {}).code(), Code::invalid_argument);
  EXPECT_EQ(Reduction::check(3, 8, {}).code(), Code::invalid_argument);
  EXPECT_EQ(Reduction::check(3, 7, {.chunk_bytes = 100}).code(), Code::invalid_argument);
  EXPECT_EQ(Reduction::check(3, 7, {.window_chunks = 0}).code(), Code::invalid_argument);
  EXPECT_EQ(Reduction::check(3, 7, {.least_members = 4}).code(), Code::invalid_argument);
  EXPECT_TRUE(Reduction::check(64, ~uint64_t{0}, {}).ok());
}

TEST(Reduction, AMemberCannotOverrunTheWindow) {
  const ReductionOptions options{.chunk_bytes = 64, .window_chunks = 2};
  std::vector<std::byte> input(1000), output(1000);
  Reduction core(3, 7, 0, options);
  core.begin(input, output, add_f32, {});
  ReductionMessage message;
  message.kind = ReductionKind::contribution;
  message.operation = 1;
  message.members = 7;
  message.payload_bytes = 64;
  for (; message.chunk < 2; ++message.chunk) {
    ASSERT_EQ(core.accept(1, message, {}).arrival, Reduction::Arrival::store);
    core.received(1, message, {});
  }
  EXPECT_EQ(core.accept(1, message, {}).arrival, Reduction::Arrival::refuse);  // member 2 has sent nothing yet
}

// A member whose messages break the protocol is refused, and nothing that it says makes memory grow.
TEST(Reduction, RefusesWhatBreaksTheProtocol) {
  const ReductionOptions options{.chunk_bytes = 64, .window_chunks = 2};
  std::vector<std::byte> input(1000), output(1000);
  Reduction core(2, 3, 0, options);
  core.begin(input, output, add_f32, {});
  ReductionMessage message;
  message.kind = ReductionKind::contribution;
  message.operation = 1;
  message.members = 3;
  message.payload_bytes = 64;
  const auto arrival = [&](auto change) {
    ReductionMessage altered = message;
    change(altered);
    return core.accept(1, altered, {}).arrival;
  };
  using Arrival = Reduction::Arrival;
  EXPECT_EQ(arrival([](auto&) {}), Arrival::store);
  EXPECT_EQ(arrival([](auto& m) { m.chunk = 1; }), Arrival::refuse);
  EXPECT_EQ(arrival([](auto& m) { m.payload_bytes = 63; }), Arrival::refuse);
  EXPECT_EQ(arrival([](auto& m) { m.operation = 2; }), Arrival::refuse);
  EXPECT_EQ(arrival([](auto& m) { m.kind = ReductionKind::hello; }), Arrival::refuse);
  EXPECT_EQ(arrival([](auto& m) { m.kind = ReductionKind::result; }),
            Arrival::refuse);  // the peer's shard is from 8 on
  EXPECT_EQ(arrival([](auto& m) { m.operation = 0; }), Arrival::discard);
  core.received(1, message, {});
  message.chunk = 1;
  core.received(1, message, {});
  // Both chunks have been added up, so there is room for two more.
  for (message.chunk = 2; message.chunk < 4; ++message.chunk) {
    EXPECT_EQ(arrival([](auto&) {}), Arrival::store);
    core.received(1, message, {});
  }
}

}  // namespace
}  // namespace sporkle::mesh
