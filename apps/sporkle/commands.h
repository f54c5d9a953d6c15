// The list of commands, in the order in which help shows them. Each is declared in its file cmd_NAME.cc.
#pragma once

#include "apps/sporkle/cli.h"

namespace sporkle::app {

void register_bench(Cli& cli);
void register_demo(Cli& cli);
void register_identity(Cli& cli);
void register_join(Cli& cli);
void register_run(Cli& cli);

inline void register_commands(Cli& cli) {
  register_demo(cli);
  register_run(cli);
  register_join(cli);
  register_bench(cli);
  register_identity(cli);
}

}  // namespace sporkle::app
