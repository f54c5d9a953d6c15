// The command line: commands with options, help texts and exit codes. A thin face of CLI11, which only cli.cc includes.
//
// Each command lives in a file of its own (cmd_x.cc) that declares its options and its action with `void
// register_x(Cli&)`, listed in commands.h. Not thread-safe; everything happens on the main thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace sporkle::app {

// What the process returns: scripts may rely on these.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;  // the command was understood and failed; the reason is on standard error
inline constexpr int kExitUsage = 2;    // the command line was not understood

class Cli;

// An option or argument that was just declared; calls refine it.
class Option {
 public:
  explicit Option(CLI::Option* option) : option_(option) {}
  Option& required();
  Option& range(double lowest, double highest);
  Option& one_of(std::vector<std::string> values);
  // Of a list: one value each time that the option is given, so that a positional argument may follow.
  Option& one_at_a_time();
  // What help shows for the value, such as "FILE"; upper case by convention.
  Option& value_name(const std::string& name);

 private:
  CLI::Option* option_;
};

// One command ("train") or a command of a command ("run start"). A light handle into its Cli. Targets of options must
// outlive Cli::run, and hold the default, which help shows.
class Command {
 public:
  Command(Cli* cli, CLI::App* app) : cli_(cli), app_(app) {}

  // Names as CLI11 takes them: "--steps", "-n,--steps"; "config" without dashes is a positional argument.
  Option option(const std::string& names, std::string* target, const std::string& help);
  Option option(const std::string& names, int64_t* target, const std::string& help);
  Option option(const std::string& names, double* target, const std::string& help);
  Option option(const std::string& names, std::vector<std::string>* target, const std::string& help);
  Option flag(const std::string& names, bool* target, const std::string& help);

  // Says that the command computes: it gets the options --reserve-cores and --nice, which hold for all that it and its
  // child processes do.
  Command& computes();

  // Whether an option was given on the command line, as opposed to left at its default. Valid inside the action.
  bool given(const std::string& name) const;

  Command command(const std::string& name, const std::string& summary);
  // One that help does not show: for this program's own child processes.
  Command hidden_command(const std::string& name, const std::string& summary);
  // A line for the examples that help ends with, without the leading "sporkle".
  Command& example(const std::string& arguments, const std::string& explanation);
  // Runs when the command is chosen; a failure is printed and becomes kExitFailure.
  Command& action(std::function<Status()> run);

 private:
  Cli* cli_;
  CLI::App* app_;
};

class Cli {
 public:
  Cli();
  ~Cli();
  Cli(const Cli&) = delete;
  Cli& operator=(const Cli&) = delete;

  Command command(const std::string& name, const std::string& summary);

  bool has_command(const std::string& name) const;

  // Parses, runs the chosen command's action and returns the exit code. Help and the version go to standard output,
  // failures to standard error as "sporkle COMMAND: message".
  int run(int argc, const char* const* argv);

 private:
  friend class Command;
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sporkle::app
