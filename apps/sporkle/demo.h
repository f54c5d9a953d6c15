// The demo: a coordinator and workers as processes of their own on this machine, one killed halfway, one joining late;
// then the same training in one process, and what the model writes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "apps/sporkle/demo_screen.h"
#include "apps/sporkle/demo_summary.h"
#include "base/status.h"
#include "train/config.h"

namespace sporkle::app {

struct DemoOptions {
  std::filesystem::path directory = "demo";
  std::string corpus = "kjv";
  int64_t tokens = 0;  // to train on; 0: the demo's own number
  int64_t threads = 0;
  std::string prompt;
};

struct DemoCallbacks {
  // A few times a second.
  std::function<void(const DemoScreen&)> show;
  // Everything that happens, in words.
  std::function<void(const std::string& event)> event;
  std::function<bool()> stop;
};

// What the demo trains: on the mesh, and with the same tokens and global batch in one process.
train::TrainConfig demo_mesh_config(const DemoOptions& options);
train::TrainConfig demo_synchronous_config(const DemoOptions& options);

// Runs it all. Children end with it, whatever happens. Replaces what an earlier demo left in the directory.
Result<DemoSummary> run_demo(const DemoOptions& options, const DemoCallbacks& callbacks);

}  // namespace sporkle::app
