#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"

int main(int argc, char** argv) {
  sporkle::app::Cli cli;
  sporkle::app::register_commands(cli);
  return cli.run(argc, argv);
}
