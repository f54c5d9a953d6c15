// What a stream's handle and its connection share. Internal to mesh/.
//
// Locks: the connection's thread and the handle's take `mutex`, never while they hold a connection's.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/status.h"
#include "mesh/cancellation.h"
#include "mesh/message.h"

namespace sporkle::mesh {

class Connection;

struct StreamState {
  // Set before anybody else sees the state.
  std::weak_ptr<Connection> connection;
  uint64_t call_id = 0;
  size_t most_queued_bytes = 0;  // that wait to be sent; as many as the peer may send that are not used yet
  std::shared_ptr<Cancellation> cancellation = std::make_shared<Cancellation>();

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::vector<std::byte>> arrived;
  bool peer_finished = false;
  size_t queued_bytes = 0;
  bool responded = false;  // server
  std::optional<Result<Message>> over;
  std::function<void(std::vector<std::byte>)> on_data;
  bool calling = false;                // on_data is running: pieces stay in order
  std::atomic<size_t> used_bytes = 0;  // of what arrived, not yet told to the connection

  // --- The connection's thread
  void on_arrived(std::vector<std::byte> bytes);
  void on_peer_finished();
  void on_sent(size_t size_bytes);
  void on_over(Result<Message> result);

  // Gives on_data what there is for it.
  void deliver(std::unique_lock<std::mutex>& lock);
  // So much has been used; told to the connection now and then, long before the peer would have to wait for it.
  void consumed(size_t size_bytes);
};

}  // namespace sporkle::mesh
