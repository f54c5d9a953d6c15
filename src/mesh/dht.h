// Dht: a node of Sporkle's distributed hash table (BEP 5, BEP 44), in which a coordinator leaves its run's signed
// record for whoever has the run's link. Nodes that one is told of (the bootstrap list) and those remembered from the
// last time are the way in; no list of anybody else's is built in.
//
// Nothing that comes out of it is believed: an item must be signed by the link's key, and so must the record within,
// which must be of the link's run and not expired. Strangers can hide a record, or give an older one, whose addresses
// are hints that lead nowhere; they cannot make one. The record's sequence number is the item's.
//
// A Dht owns its sockets (one UDP, and one TCP that accepts nothing of use) and threads. Thread-safe. Starting one
// takes milliseconds and asks nobody's leave: the first answers come later.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "mesh/identity.h"
#include "mesh/run_link.h"
#include "mesh/run_record.h"

namespace sporkle::mesh {

struct DhtOptions {
  std::string host;                // a literal address to bind; empty: every IPv4 and IPv6 address
  uint16_t port = 0;               // 0: any free one
  std::vector<Address> bootstrap;  // nodes to ask first
  // Nodes met are kept here from one time to the next, so that the list is needed once. Empty: nowhere.
  std::filesystem::path nodes_file;
  // Normally a lookup asks few nodes of one network, so that nobody becomes many cheaply. True where all nodes share
  // one address, as in a laboratory behind one router.
  bool shared_address = false;
};

class Dht {
 public:
  // What an item can hold of a record: its value has at most 1000 bytes, of which four say how long it is.
  static constexpr size_t max_record_bytes = 996;

  // unavailable when the address or port cannot be had. A damaged nodes file counts as none.
  static Result<std::unique_ptr<Dht>> start(const DhtOptions& options);
  // Writes the nodes file. Ends put() and find() of other threads, which must still be over before.
  ~Dht();

  uint16_t port() const;
  // Nodes that have answered lately.
  size_t node_count() const;

  // Leaves `record` with the nodes nearest to its place; asked again and again until one took it. The number of nodes
  // that did. invalid_argument for a record that is not the identity's, or too large, or whose sequence number has more
  // than 63 bits; already_exists when the table has a newer record of the run; deadline_exceeded; cancelled.
  Result<size_t> put(const RunRecord& record, const Identity& identity, std::chrono::milliseconds timeout,
                     std::stop_token stop = {});
  // The newest record of the run that `link` names. invalid_argument for a link without key or run; not_found when
  // nobody has answered with a valid one in time (the message says how many were not); cancelled.
  Result<RunRecord> find(const RunLink& link, std::chrono::milliseconds timeout, std::stop_token stop = {});

 private:
  struct State;
  explicit Dht(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Where a run's record stands beside others of its key: "sporkle run " and the run's value in a link (BEP 44's salt).
std::string dht_salt(std::string_view link_run_value);
// What an item's signature is over (BEP 44).
std::vector<std::byte> dht_signed_bytes(std::string_view salt, uint64_t sequence, std::span<const std::byte> value);

}  // namespace sporkle::mesh
