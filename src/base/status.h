// Status and Result<T>: how every fallible call in Sporkle reports failure.
//
// A message names what was asked, what was found and what to do. Exceptions stop at library boundaries and become a
// Status there. Values are plain and copyable; a Status is as thread-safe as a std::string.
#pragma once

#include <cassert>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace sporkle {

enum class Code {
  ok,
  invalid_argument,   // the caller's input is wrong
  not_found,          // a file, key or peer does not exist
  already_exists,     // would overwrite, or the port is taken
  permission_denied,  // the system or a peer refuses
  unavailable,        // may work later: a peer is away
  device_lost,        // a GPU was reset or taken away: open it again
  deadline_exceeded,
  out_of_memory,
  no_space,      // the disk is full
  corrupt_data,  // a file or a message fails its checks
  unsupported,   // known, but not on this machine or in this version
  cancelled,
  io_error,
  internal,  // a bug in Sporkle
};

std::string_view code_name(Code code);

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::ok; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  // "corrupt_data: <message>"; "ok" for success.
  std::string to_string() const;
  // The same status with "context: " before its message. An ok status stays ok.
  Status with_context(std::string_view context) const;

 private:
  Code code_ = Code::ok;
  std::string message_;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  using value_type = T;
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Status status) : state_(std::in_place_index<1>, std::move(status)) { assert(!std::get<1>(state_).ok()); }

  bool ok() const { return state_.index() == 0; }
  Status status() const { return ok() ? Status() : std::get<1>(state_); }
  // The value; calling this on a failure is a bug.
  T& value() & {
    assert(ok());
    return std::get<0>(state_);
  }
  const T& value() const& {
    assert(ok());
    return std::get<0>(state_);
  }
  T&& value() && {
    assert(ok());
    return std::get<0>(std::move(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<T, Status> state_;
};

inline Status invalid_argument(std::string m) { return {Code::invalid_argument, std::move(m)}; }
inline Status not_found(std::string m) { return {Code::not_found, std::move(m)}; }
inline Status corrupt_data(std::string m) { return {Code::corrupt_data, std::move(m)}; }
inline Status unsupported(std::string m) { return {Code::unsupported, std::move(m)}; }
inline Status unavailable(std::string m) { return {Code::unavailable, std::move(m)}; }
inline Status device_lost(std::string m) { return {Code::device_lost, std::move(m)}; }
inline Status internal_error(std::string m) { return {Code::internal, std::move(m)}; }
// A Status from errno (no_space, permission_denied, not_found, ... or io_error), its message ending in strerror's text.
Status errno_status(int error, std::string what);

}  // namespace sporkle

#define SPORKLE_CONCAT_INNER(a, b) a##b
#define SPORKLE_CONCAT(a, b) SPORKLE_CONCAT_INNER(a, b)

// Returns from the enclosing function when `expression` (a Status) is a failure.
#define SPORKLE_RETURN_IF_ERROR(expression)            \
  do {                                                 \
    ::sporkle::Status sporkle_status_ = (expression);  \
    if (!sporkle_status_.ok()) return sporkle_status_; \
  } while (false)

// SPORKLE_ASSIGN_OR_RETURN(auto x, f()): x = value of the Result, or returns its status.
#define SPORKLE_ASSIGN_OR_RETURN(target, expression) \
  SPORKLE_ASSIGN_OR_RETURN_IMPL(SPORKLE_CONCAT(sporkle_result_, __LINE__), target, expression)
#define SPORKLE_ASSIGN_OR_RETURN_IMPL(name, target, expression) \
  auto name = (expression);                                     \
  if (!name.ok()) return name.status();                         \
  target = std::move(name).value()

// The same two for coroutines.
#define SPORKLE_CO_RETURN_IF_ERROR(expression)            \
  do {                                                    \
    ::sporkle::Status sporkle_status_ = (expression);     \
    if (!sporkle_status_.ok()) co_return sporkle_status_; \
  } while (false)
#define SPORKLE_CO_ASSIGN_OR_RETURN(target, expression) \
  SPORKLE_CO_ASSIGN_OR_RETURN_IMPL(SPORKLE_CONCAT(sporkle_result_, __LINE__), target, expression)
#define SPORKLE_CO_ASSIGN_OR_RETURN_IMPL(name, target, expression) \
  auto name = (expression);                                        \
  if (!name.ok()) co_return name.status();                         \
  target = std::move(name).value()
