// A trace of what this process does, for a timeline: $SPORKLE_TRACE=FILE makes it write one.
//
// The file holds trace events as the JSON array that Perfetto (ui.perfetto.dev) and chrome://tracing read:
// one complete event ("ph":"X") a line, times in microseconds of the monotonic clock, so that the traces of several
// processes of one machine fit together. %p in FILE stands for the process's number. A file that another live process
// writes is left alone, and FILE.<process> is written instead. Events reach the file within a tenth of a second while
// more of them come, and at exit; the file of a process that was killed lacks its closing bracket and is still
// readable.
//
// Thread-safe. When the variable is unset, on() is all that anybody pays.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/json_writer.h"

namespace sporkle::trace {

// Whether a trace is written. A file that cannot be written is an error in the log, and no trace.
bool on();

// The clock of all events.
int64_t now_ns();

// This thread's number in traces: the system's.
int64_t this_thread();

// Something that took from start_ns to end_ns on a thread. `arguments` are shown beside it.
void event(std::string_view category, std::string_view name, int64_t start_ns, int64_t end_ns,
           const JsonObject& arguments = {}, int64_t thread = this_thread());

// How a timeline calls a thread. Once a thread; "main" is named already.
void name_thread(std::string_view name, int64_t thread = this_thread());

// The life of this object as an event.
class Span {
 public:
  Span(std::string_view category, std::string_view name)
      : category_(category), name_(name), start_ns_(on() ? now_ns() : -1) {}
  ~Span() {
    if (start_ns_ >= 0) event(category_, name_, start_ns_, now_ns(), arguments_);
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;
  template <typename T>
  void add(std::string_view key, const T& value) {
    if (start_ns_ >= 0) arguments_.add(key, value);
  }

 private:
  std::string_view category_, name_;  // outlive the span
  int64_t start_ns_;                  // -1: no trace
  JsonObject arguments_;
};

// Writes what is still held to the file.
void flush();

}  // namespace sporkle::trace
