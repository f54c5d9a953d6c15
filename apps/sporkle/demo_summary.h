// How the demo ends: its result as a page of text, and as the summary event of --json. Pure functions, thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sporkle::app {

struct DemoSummary {
  double validation_loss = 0;              // nats per byte
  double synchronous_validation_loss = 0;  // the same, trained synchronously on as many tokens with the same batch
  uint64_t bytes_per_node = 0;             // sent and received, mean over the workers
  uint64_t all_reduce_bytes_per_node = 0;  // what f32 gradient all-reduce at every step would have moved
  uint64_t rounds = 0;
  uint64_t tokens = 0;
  double seconds = 0;
  int64_t workers_joined = 0;
  int64_t workers_lost = 0;
  std::string checkpoint;  // its path
  std::string passage;     // written by the model; not part of the event
};

std::vector<std::string> render_demo_summary(const DemoSummary& summary, int width, bool colour);

// {"event":"summary","validation_loss":...}, every field above by its name.
std::string demo_summary_json(const DemoSummary& summary);

}  // namespace sporkle::app
