// Session: the protocol of one connection, without the connection.
//
// Bytes that arrived go in, bytes to send come out, and what they mean comes out as events. There is no socket, thread
// or clock inside, so tests and fuzzers drive it directly and every run of it can be repeated. A Session belongs to one
// thread at a time. What arrives is never trusted: any input ends in events or in a failure, never in a crash or in
// an allocation that the peer did not pay for in bytes or that the limits do not cap.
//
// Order of sending: control frames, then messages with small payloads, then large payloads chunk by chunk in turn. A
// small call waits for one chunk of a large one at most.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "mesh/frame.h"
#include "mesh/message.h"

namespace sporkle::mesh {

inline constexpr size_t max_method_bytes = 128;
inline constexpr size_t max_status_message_bytes = 4096;

class Session {
 public:
  enum class Side { client, server };  // clients make calls, servers answer them

  struct Options {
    std::string software;
    std::string role;
    Limits limits;
  };

  struct Event {
    enum class Kind {
      opened,    // the peer's hello is here: software, role
      request,   // server: a whole request is here: call_id, method, message, abandoned
      response,  // client: a whole response is here: call_id, result
    };
    Kind kind{};
    uint64_t call_id = 0;
    std::string software;
    std::string role;
    std::string method;
    Message message;
    Result<Message> result = Message{};
    std::shared_ptr<const std::atomic<bool>> abandoned;  // turns true when nobody waits for the answer any more
  };

  // The hello is the first output.
  Session(Side side, Options options);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Takes bytes as they arrived. A failure ends the session: nothing more may be received. It is the peer's own reason
  // when peer_said_goodbye(); otherwise it is ours, and send_goodbye() should tell the peer.
  Status receive(std::span<const std::byte> bytes);
  bool next_event(Event& event);
  bool peer_said_goodbye() const { return peer_said_goodbye_; }
  bool opened() const { return opened_; }
  // Whether what arrived ends inside a frame.
  bool inside_frame() const { return decoder_.inside_frame(); }

  // Client. `call_id` is new; a request beyond the limits is a bug (check_request).
  void send_request(uint64_t call_id, std::string_view method, Message request);
  // Client: the response is no longer wanted, and will not become an event.
  void cancel(uint64_t call_id);
  // Server: once for every request. Does nothing when the caller has given up. A response beyond the limits is replaced
  // by an error.
  void send_response(uint64_t call_id, Result<Message> response);
  void send_ping() { ping_pending_ = true; }
  // Drops all other output; the last frame.
  void send_goodbye(const Status& why);
  // Marks all calls as abandoned.
  void abandon_all();

  bool has_output() const;
  // Appends the next frame to `out`. False when there is nothing to send.
  bool next_output(std::vector<std::byte>& out);

  // invalid_argument when a request cannot be sent under these limits.
  static Status check_request(std::string_view method, const Message& request, const Limits& limits);

 private:
  // A call from its first frame to its end: to the last byte of the response, sent (server) or received (client).
  struct Call {
    bool arriving = false;  // its message is incomplete
    size_t payload_bytes = 0;
    std::string method;
    Message message;
    std::shared_ptr<std::atomic<bool>> abandoned;
  };
  // A message on its way out.
  struct Outgoing {
    FrameKind kind{};
    uint64_t call_id = 0;
    std::string envelope;
    std::vector<std::byte> payload;
    bool envelope_sent = false;
    size_t sent = 0;  // of the payload
  };
  using Calls = std::unordered_map<uint64_t, Call>;

  Status handle(const Frame& frame);
  Status handle_hello(const Frame& frame);
  Status handle_goodbye(const Frame& frame);
  Status handle_request(const Frame& frame);
  Status handle_response(const Frame& frame);
  Status handle_chunk(const Frame& frame);
  void handle_cancel(uint64_t call_id);
  // Refuses, or accounts for, a payload that is announced for `call`.
  Status announce_payload(Call& call, uint64_t payload_bytes, std::string_view what);
  void complete(Calls::iterator it);
  void forget(Calls::iterator it);
  void enqueue(FrameKind kind, uint64_t call_id, std::string envelope, std::vector<std::byte> payload);
  // Emits the next frame of `message`; true when that was its last.
  bool emit(Outgoing& message, std::vector<std::byte>& out);
  void drop_outgoing(uint64_t call_id);

  const Side side_;
  const Options options_;
  FrameDecoder decoder_;
  bool opened_ = false;
  bool peer_said_goodbye_ = false;
  std::deque<Event> events_;
  Calls calls_;
  size_t arriving_bytes_ = 0;

  std::vector<std::byte> control_;  // encoded frames that go before everything else
  bool ping_pending_ = false;
  bool pong_pending_ = false;
  bool goodbye_sent_ = false;
  std::deque<Outgoing> small_;
  std::deque<Outgoing> large_;
  // Chunks yet to send without trying to compress, of whatever message: a stream of messages holds alike data.
  unsigned uncompressed_ = 0;
};

}  // namespace sporkle::mesh
