// A run on the screen and as JSON lines: what `sporkle run`, `sporkle join` and `sporkle demo` share.
#pragma once

#include <string>

#include "apps/sporkle/demo_screen.h"
#include "run/event.h"
#include "run/status.h"
#include "run/worker.h"

namespace sporkle::app {

// Nodes, round, tokens, loss and remaining time from a status; nodes that the screen knows by their ID keep their name
// and speed limit.
void show_status(const run::RunStatus& status, DemoScreen* screen);
// "round 12 closed: 4 updates, loss 2.31"; empty for what needs no line.
std::string describe_event(const run::Event& event);
std::string describe_event(const run::WorkerEvent& event);

// One line of --json each.
std::string event_json(const run::Event& event);
std::string event_json(const run::WorkerEvent& event);
std::string status_json(const run::RunStatus& status);

}  // namespace sporkle::app
