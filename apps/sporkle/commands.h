// The list of commands, in the order in which help shows them. Each is declared in its file cmd_NAME.cc.
#pragma once

#include "apps/sporkle/cli.h"

namespace sporkle::app {

void register_identity(Cli& cli);

inline void register_commands(Cli& cli) { register_identity(cli); }

}  // namespace sporkle::app
