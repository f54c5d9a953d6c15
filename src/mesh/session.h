// Session: the protocol of one connection, without the connection.
//
// Bytes that arrived go in, bytes to send come out, and what they mean comes out as events. There is no socket, thread
// or clock inside, so tests and fuzzers drive it directly and every run of it can be repeated. A Session belongs to one
// thread at a time. What arrives is never trusted: any input ends in events or in a failure, never in a crash or in
// an allocation that the peer did not pay for in bytes or that the limits do not cap.
//
// Order of sending: control frames, then messages without payload, then those with small payloads, then large payloads
// and streams chunk by chunk in turn. A heartbeat waits for one chunk at most. A stream waits when its reader does not
// keep up (its window is used up), and keeps nothing else waiting.
#pragma once

#include <algorithm>
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
#include "mesh/cancellation.h"
#include "mesh/frame.h"
#include "mesh/message.h"

namespace sporkle::mesh {

inline constexpr size_t max_method_bytes = 128;
inline constexpr size_t max_status_message_bytes = 4096;
// A longer time that a caller says it waits counts as this: a year, in milliseconds.
inline constexpr uint64_t longest_timeout_ms = uint64_t{365} * 24 * 3600 * 1000;

class Session {
 public:
  enum class Side { client, server };  // clients make calls, servers answer them

  struct Options {
    std::string software;
    std::string role;
    Limits limits;
    bool checksum_data = false;  // of chunks too: where TLS does not guard them
  };

  struct Event {
    enum class Kind {
      opened,         // the peer's hello is here: software, role, minor_version
      request,        // server: a whole request is here: call_id, method, message, cancellation, timeout_ms
      response,       // client: a whole response is here: call_id, result
      stream_opened,  // server: a caller opened a stream: call_id, method, message (its body), cancellation, timeout_ms
      stream_data,    // more of a stream is here: call_id, message (its payload)
      stream_sent,    // so much of a stream has left: call_id, size_bytes
      stream_end,     // server: the caller sends nothing more on it: call_id
      stream_over,    // last of a stream: call_id, result (client: the response; server: how it ended)
    };
    Kind kind{};
    uint64_t call_id = 0;
    std::string software;
    std::string role;
    uint32_t minor_version = 0;  // opened: of the protocol, what both sides speak
    std::string method;
    Message message;
    Result<Message> result = Message{};
    std::shared_ptr<Cancellation> cancellation;
    uint64_t timeout_ms = 0;  // how long the caller waits for the answer from now on; 0: for ever
    size_t size_bytes = 0;
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
  // The lower of both sides' minor versions, once opened: what both understand.
  uint32_t minor_version() const { return minor_version_; }
  size_t calls_in_flight() const { return calls_.size(); }
  bool has_streams() const { return opened_ && minor_version_ >= first_minor_with_streams; }
  // Whether what arrived ends inside a frame.
  bool inside_frame() const { return decoder_.inside_frame(); }

  // Client. `call_id` is new; a request beyond the limits is a bug (check_request).
  // The server is told how long the caller waits, unless `timeout_ms` is 0.
  void send_request(uint64_t call_id, std::string_view method, Message request, uint64_t timeout_ms = 0);
  // Client: the response is no longer wanted, and will not become an event.
  void cancel(uint64_t call_id);
  // Server: once for every request. Does nothing when the caller has given up. A response beyond the limits is replaced
  // by an error.
  void send_response(uint64_t call_id, Result<Message> response);
  // Server: the time of this call has run out; answers so and cancels it, unless it has been answered.
  void expire(uint64_t call_id);

  // Client: opens a stream; `call_id` is new. unsupported when the peer's version has none. It ends by the server's
  // response (which goes after all that was written before it, unless it is a failure) or by cancel().
  Status open_stream(uint64_t call_id, std::string_view method, std::string body, uint64_t timeout_ms = 0);
  // Queues bytes, which are sent as the peer's window allows; stream_sent says when. Nothing once the stream is over.
  void stream_write(uint64_t call_id, SharedBytes bytes);
  // Client: nothing more will be written.
  void stream_finish(uint64_t call_id);
  // So much of what stream_data brought has been used: the peer may send as much again.
  void stream_consumed(uint64_t call_id, size_t size_bytes);

  void send_ping() { ping_pending_ = true; }
  // Drops all other output; the last frame.
  void send_goodbye(const Status& why);
  // Marks all calls as abandoned.
  void abandon_all();

  // From now on chunks have checksums of their own: nothing below guards them.
  void checksum_data() { options_.checksum_data = true; }
  // Payloads and streams are cut into pieces of this size (1 to sent_chunk_bytes) from now on: small ones let urgent
  // messages through sooner on a slow connection.
  void set_chunk_bytes(size_t size_bytes) { chunk_bytes_ = std::clamp(size_bytes, size_t{1}, sent_chunk_bytes); }

  bool has_output() const;
  // Appends the next frame to `out`, all but its last part where that need not be copied: `tail`, which goes behind
  // what is in `out`. False when there is nothing to send.
  bool next_output(std::vector<std::byte>& out, SharedBytes& tail);
  // The same in one piece.
  bool next_output(std::vector<std::byte>& out);

  // invalid_argument when a request cannot be sent under these limits.
  static Status check_request(std::string_view method, const Message& request, const Limits& limits);

 private:
  // A call from its first frame to its end: to the last byte of the response, sent (server) or received (client).
  // Both directions of a stream.
  struct StreamPart {
    std::deque<SharedBytes> queue;  // to send
    uint64_t credit = 0;            // what the peer may still be sent
    bool queued = false;            // stands in large_
    bool finish = false;            // client: after the queue, its end
    bool finish_sent = false;
    bool finished = false;  // server: the caller has sent its end
    std::string response;   // server: after the queue, this envelope
    bool has_response = false;
    size_t window_left = 0;  // what the peer may still send us
    size_t unannounced = 0;  // used, and not yet given back to the peer
  };
  struct Call {
    bool arriving = false;     // its message is incomplete
    bool answered = false;     // server
    size_t payload_bytes = 0;  // that it counts towards max_arriving_bytes
    std::string method;
    Message message;
    uint64_t timeout_ms = 0;
    std::shared_ptr<Cancellation> cancellation;
    std::unique_ptr<StreamPart> stream;  // null for a plain call
  };
  // A message on its way out, or a stream's turn.
  struct Outgoing {
    FrameKind kind{};
    uint64_t call_id = 0;
    std::string envelope;
    SharedBytes payload;
    bool envelope_sent = false;
    size_t sent = 0;  // of the payload
    bool stream = false;
  };
  using Calls = std::unordered_map<uint64_t, Call>;

  Status handle(const Frame& frame);
  Status handle_hello(const Frame& frame);
  Status handle_goodbye(const Frame& frame);
  Status handle_request(const Frame& frame);
  Status handle_response(const Frame& frame);
  Status handle_chunk(const Frame& frame);
  void accept_stream(uint64_t call_id, Call& call);
  Status handle_stream_chunk(uint64_t call_id, Call& call, std::span<const std::byte> data);
  Status handle_window(const Frame& frame);
  Status handle_end(uint64_t call_id);
  void handle_cancel(uint64_t call_id);
  // Refuses, or accounts for, a payload that is announced for `call`.
  Status announce_payload(Call& call, uint64_t payload_bytes, std::string_view what);
  void complete(Calls::iterator it);
  void forget(Calls::iterator it);
  // Ends a stream here: its last event.
  void end_stream(Calls::iterator it, Result<Message> result);
  // Gives a stream a place in the round, if it has something that may be sent.
  void schedule(uint64_t call_id, StreamPart& stream);
  void enqueue(FrameKind kind, uint64_t call_id, std::string envelope, std::vector<std::byte> payload);
  // Emits the next frame of `message`; true when that was its last.
  bool emit(Outgoing& message, std::vector<std::byte>& out, SharedBytes& tail);
  bool emit_stream(Outgoing& turn, std::vector<std::byte>& out, SharedBytes& tail);
  // The frame of a payload's next bytes.
  void emit_chunk(uint64_t call_id, const SharedBytes& chunk, std::vector<std::byte>& out, SharedBytes& tail);
  // Control frames go at once, even beside a long queue.
  void send_control(FrameKind kind, uint64_t call_id, std::span<const std::byte> data = {});
  void drop_outgoing(uint64_t call_id);

  const Side side_;
  Options options_;
  size_t chunk_bytes_ = sent_chunk_bytes;
  FrameDecoder decoder_;
  bool opened_ = false;
  uint32_t minor_version_ = 0;
  uint32_t peer_window_bytes_ = 0;
  bool peer_said_goodbye_ = false;
  std::deque<Event> events_;
  Calls calls_;
  size_t arriving_bytes_ = 0;
  size_t leaving_bytes_ = 0;  // payloads of responses in the queues

  std::vector<std::byte> control_;  // encoded frames that go before everything else
  bool ping_pending_ = false;
  bool pong_pending_ = false;
  bool goodbye_sent_ = false;
  std::deque<Outgoing> first_;  // without payload
  std::deque<Outgoing> small_;
  std::deque<Outgoing> large_;
  unsigned ahead_ = 0;  // frames of small_ since the last of large_
  // Chunks yet to send without trying to compress, of whatever message: a stream of messages holds alike data.
  unsigned uncompressed_ = 0;
  unsigned uncompressed_after_next_ = 0;  // so many after the next trial, should that fail too
};

}  // namespace sporkle::mesh
