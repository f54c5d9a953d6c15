// The list of commands, in the order in which help shows them. Each is declared in its file cmd_NAME.cc.
#pragma once

#include "apps/sporkle/cli.h"

namespace sporkle::app {

void register_accuracy(Cli& cli);
void register_bench(Cli& cli);
void register_bench_reports(Command bench);  // commands of `bench`
void register_checkpoint(Cli& cli);
void register_content(Cli& cli);
void register_demo(Cli& cli);
void register_devices(Cli& cli);
void register_dht(Cli& cli);
void register_eval(Cli& cli);
void register_generate(Cli& cli);
void register_identity(Cli& cli);
void register_join(Cli& cli);
void register_kernel(Cli& cli);
void register_profile(Cli& cli);
void register_relay(Cli& cli);
void register_run(Cli& cli);
void register_tokenizer(Cli& cli);
void register_train(Cli& cli);
void register_tune(Cli& cli);
void register_validate(Cli& cli);

inline void register_commands(Cli& cli) {
  register_demo(cli);
  register_train(cli);
  register_generate(cli);
  register_eval(cli);
  register_checkpoint(cli);
  register_tokenizer(cli);
  register_devices(cli);
  register_run(cli);
  register_join(cli);
  register_relay(cli);
  register_dht(cli);
  register_content(cli);
  register_bench(cli);
  register_tune(cli);
  register_validate(cli);
  register_accuracy(cli);
  register_profile(cli);
  register_kernel(cli);
  register_identity(cli);
}

}  // namespace sporkle::app
