#include "apps/sporkle/cli.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>

#include "apps/sporkle/version.h"
#include "base/edit_distance.h"
#include "hal/host/system.h"

namespace sporkle::app {
namespace {

// CLI11's layout, with our spacing and without its group names in square brackets.
class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter() { column_width(30); }
  std::string make_usage(const CLI::App* app, std::string) const override {
    std::string line = "\nUsage: " + full_name(app);
    if (!app->get_options([](const CLI::Option* option) { return option->nonpositional(); }).empty()) {
      line += " [options]";
    }
    for (const CLI::Option* argument : app->get_options([](const CLI::Option* o) { return o->get_positional(); })) {
      line += " " + make_option_usage(argument);
    }
    if (!app->get_subcommands({}).empty()) line += " COMMAND ...";
    return line + "\n";
  }
  std::string make_option_opts(const CLI::Option* option) const override {
    const std::string type = option->get_type_name(), standard = option->get_default_str();
    std::string text = type.empty() ? "" : " " + type;
    if (option->get_expected_max() > 1) text += " ...";
    if (!standard.empty()) text += " (" + standard + ")";
    return text;
  }
  static std::string full_name(const CLI::App* app) {
    const CLI::App* parent = app->get_parent();
    return (parent ? full_name(parent) + " " : "") + app->get_name();
  }
};

template <typename T>
Option add_option(CLI::App* app, const std::string& names, T* target, const std::string& help) {
  return Option(app->add_option(names, *target, help)->capture_default_str());
}

}  // namespace

struct Cli::State {
  CLI::App root{"Train AI models together: any machine joins a training run with one command.", "sporkle"};
  std::map<const CLI::App*, std::string> examples;
  std::function<Status()> chosen;
  // Of commands that compute.
  struct Sharing {
    CLI::App* app;
    int64_t reserved_cores = 0, nice = 0;
  };
  std::deque<Sharing> sharing;
  std::string chosen_name;
};

Option& Option::required() {
  option_->required();
  return *this;
}
Option& Option::range(double lowest, double highest) {
  option_->check(CLI::Range(lowest, highest).description(""));  // the failure names the range; help need not
  return *this;
}
Option& Option::one_of(std::vector<std::string> values) {
  option_->check(CLI::IsMember(std::move(values)));
  return *this;
}
Option& Option::one_at_a_time() {
  option_->allow_extra_args(false);
  return *this;
}
Option& Option::value_name(const std::string& name) {
  option_->type_name(name);
  return *this;
}

Option Command::option(const std::string& names, std::string* target, const std::string& help) {
  return add_option(app_, names, target, help);
}
Option Command::option(const std::string& names, int64_t* target, const std::string& help) {
  return add_option(app_, names, target, help);
}
Option Command::option(const std::string& names, double* target, const std::string& help) {
  return add_option(app_, names, target, help);
}
Option Command::option(const std::string& names, std::vector<std::string>* target, const std::string& help) {
  return Option(app_->add_option(names, *target, help));
}
Option Command::flag(const std::string& names, bool* target, const std::string& help) {
  return Option(app_->add_flag(names, *target, help));
}

Command& Command::computes() {
  Cli::State::Sharing& sharing = cli_->state_->sharing.emplace_back(Cli::State::Sharing{app_});
  option("--reserve-cores", &sharing.reserved_cores, "Cores to leave to others; 0: as $SPORKLE_RESERVE_CORES says")
      .range(0, hal::kMostThreads)
      .value_name("N");
  option("--nice", &sharing.nice, "Let other programs go first, up to 19; 0: as $SPORKLE_NICE says")
      .range(0, hal::kMostNice)
      .value_name("LEVEL");
  return *this;
}

bool Command::given(const std::string& name) const { return app_->count(name) > 0; }

Command Command::command(const std::string& name, const std::string& summary) {
  app_->require_subcommand(1);
  return Command(cli_, app_->add_subcommand(name, summary)->group("Commands"));
}

Command Command::hidden_command(const std::string& name, const std::string& summary) {
  return Command(cli_, app_->add_subcommand(name, summary)->group(""));
}

Command& Command::example(const std::string& arguments, const std::string& explanation) {
  std::string& text = cli_->state_->examples[app_];
  if (text.empty()) text = "Examples:\n";
  text += "  sporkle " + arguments + "\n      " + explanation + "\n";
  app_->footer(text);
  return *this;
}

Command& Command::action(std::function<Status()> run) {
  app_->callback([state = cli_->state_.get(), app = app_, run = std::move(run)] {
    state->chosen = run;
    state->chosen_name = HelpFormatter::full_name(app);
  });
  return *this;
}

Cli::Cli() : state_(std::make_unique<State>()) {
  CLI::App& root = state_->root;
  root.formatter(std::make_shared<HelpFormatter>());
  root.set_help_flag("-h,--help", "Print this help");
  root.set_version_flag("--version", "sporkle " + std::string(version()), "Print the version");
  root.require_subcommand(1);
  root.footer("`sporkle COMMAND --help` describes a command. Start with: sporkle demo");
}

Cli::~Cli() = default;

Command Cli::command(const std::string& name, const std::string& summary) {
  return Command(this, state_->root.add_subcommand(name, summary)->group("Commands"));
}

bool Cli::has_command(const std::string& name) const {
  const auto commands = state_->root.get_subcommands([&](const CLI::App* app) { return app->get_name() == name; });
  return !commands.empty();
}

namespace {

// The deepest command that the command line chose before it went wrong.
const CLI::App* deepest_command(const CLI::App* app) {
  const std::vector<CLI::App*> chosen = app->get_subcommands();
  return chosen.empty() ? app : deepest_command(chosen.back());
}

// What was wrong with the command line, with a suggestion where a name was misspelt.
std::string explain(const CLI::App& root, const CLI::App* command, const CLI::ParseError& error) {
  const std::vector<std::string> unknown = root.remaining(true);
  if (unknown.empty()) {
    if (!command->get_subcommands({}).empty()) return "a command is missing";
    return error.what();
  }
  const std::string& word = unknown.front();
  std::vector<std::string> known;
  std::string kind = "argument";
  if (word.starts_with("-")) {
    kind = "option";
    for (const CLI::Option* option : command->get_options()) {
      for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    }
  } else if (const auto commands = command->get_subcommands({}); !commands.empty()) {
    kind = "command";
    for (const CLI::App* each : commands)
      if (!each->get_group().empty()) known.push_back(each->get_name());
  }
  std::string message = (kind == "argument" ? "unexpected " : "unknown ") + kind + " `" + word + "`";
  const std::string nearest = nearest_name(word.substr(0, word.find('=')), known);
  if (!nearest.empty()) message += "; did you mean `" + nearest + "`?";
  return message;
}

}  // namespace

namespace {

// Through the environment, so that child processes share the machine in the same way.
Status share_machine(int64_t reserved_cores, int64_t nice) {
  if (reserved_cores > 0) ::setenv("SPORKLE_RESERVE_CORES", std::to_string(reserved_cores).c_str(), 1);
  if (nice > 0) ::setenv("SPORKLE_NICE", std::to_string(nice).c_str(), 1);
  const char* text = std::getenv("SPORKLE_NICE");
  if (!text || !*text) return {};
  int level = 0;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), level);
  if (error != std::errc() || *end)
    return invalid_argument("SPORKLE_NICE is \"" + std::string(text) + "\": give a number from 0 to " +
                            std::to_string(hal::kMostNice));
  return hal::set_nice_level(level).with_context("SPORKLE_NICE");
}

}  // namespace

int Cli::run(int argc, const char* const* argv) {
  CLI::App& root = state_->root;
  if (argc < 2) {
    std::fputs(root.help().c_str(), stderr);
    return kExitUsage;
  }
  try {
    root.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
      const bool version_asked = error.get_name() == "CallForVersion";
      std::printf("%s",
                  version_asked ? (std::string(error.what()) + "\n").c_str() : deepest_command(&root)->help().c_str());
      return kExitOk;
    }
    const CLI::App* command = deepest_command(&root);
    const std::string name = HelpFormatter::full_name(command);
    std::fprintf(stderr, "%s: %s\nSee `%s --help`.\n", name.c_str(), explain(root, command, error).c_str(),
                 name.c_str());
    return kExitUsage;
  }
  Status status = state_->chosen ? Status() : internal_error("the command has no action");
  for (const State::Sharing& sharing : state_->sharing)
    if (status.ok() && sharing.app->parsed()) status = share_machine(sharing.reserved_cores, sharing.nice);
  if (status.ok()) status = state_->chosen();
  std::fflush(stdout);
  if (status.ok()) return kExitOk;
  std::fprintf(stderr, "%s: %s\n", state_->chosen_name.c_str(), status.message().c_str());
  return kExitFailure;
}

}  // namespace sporkle::app
