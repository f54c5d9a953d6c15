#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <set>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "apps/sporkle/profile_report.h"
#include "base/child_process.h"
#include "base/file.h"
#include "base/file_writer.h"
#include "base/format_units.h"
#include "base/json_writer.h"
#include "base/terminal.h"
#include "bench/peak.h"
#include "hal/host/system.h"

namespace sporkle::app {
namespace {

namespace fs = std::filesystem;

struct ProfileOptions {
  std::string output = "sporkle-trace.json";
  int64_t top = 10;
  bool json = false;
  std::vector<std::string> command;
};

// A folder of its own that goes away with the object.
class TraceFolder {
 public:
  static Result<TraceFolder> create() {
    std::string path = (fs::temp_directory_path() / "sporkle-profile-XXXXXX").string();
    if (!::mkdtemp(path.data())) return errno_status(errno, "cannot create " + path);
    return TraceFolder(path);
  }
  TraceFolder(TraceFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TraceFolder& operator=(TraceFolder&&) = delete;
  ~TraceFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  explicit TraceFolder(fs::path path) : path_(std::move(path)) {}
  fs::path path_;
};

// While it lives, an interrupt from the terminal is for the profiled command alone.
class InterruptsIgnored {
 public:
  InterruptsIgnored() : before_(::signal(SIGINT, SIG_IGN)) {}
  ~InterruptsIgnored() { ::signal(SIGINT, before_); }

 private:
  void (*before_)(int);
};

// Runs a program with SPORKLE_TRACE set; its exit status. `quiet`: its standard output goes to standard error.
Result<int> run_traced(const std::string& program, const std::vector<std::string>& arguments, const fs::path& traces,
                       bool quiet) {
  std::vector<std::string> variables{"SPORKLE_TRACE=" + (traces / "%p.json").string()};
  for (char** each = environ; *each; ++each)
    if (!std::string_view(*each).starts_with("SPORKLE_TRACE=")) variables.emplace_back(*each);
  const auto pointers = [](const std::vector<std::string>& texts) {
    std::vector<char*> result;
    for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
    result.push_back(nullptr);
    return result;
  };
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  if (quiet) ::posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
  posix_spawnattr_t attributes;  // the command is interrupted as usual
  ::posix_spawnattr_init(&attributes);
  sigset_t defaults;
  ::sigemptyset(&defaults);
  ::sigaddset(&defaults, SIGINT);
  ::posix_spawnattr_setsigdefault(&attributes, &defaults);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  const InterruptsIgnored ignored;
  pid_t process = -1;
  const int error = ::posix_spawnp(&process, program.c_str(), &actions, &attributes, pointers(arguments).data(),
                                   pointers(variables).data());
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0)
    return not_found("cannot run " + arguments[0] + ": " + std::strerror(error) +
                     "; it is neither a command of sporkle nor a program");
  int status = 0;
  while (::waitpid(process, &status, 0) < 0)
    if (errno != EINTR) return errno_status(errno, "cannot wait for " + arguments[0]);
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// Rates of a row, and how near they come to what the machine can do; 0 where that is not known.
struct Rates {
  double flops_per_second, bytes_per_second, percent_of_roofline;
};
Rates rates_of(const ProfileRow& row, const std::map<std::string, bench::Peak>& rooflines) {
  if (row.seconds <= 0) return {0, 0, 0};
  const auto found = rooflines.find(row.device);
  const double least = found == rooflines.end() ? 0 : found->second.seconds(row.flops, row.bytes);
  return {row.flops / row.seconds, row.bytes / row.seconds, 100 * least / row.seconds};
}

void print_json(const ProfileOptions& o, const ProfileReport& report,
                const std::map<std::string, bench::Peak>& rooflines) {
  int64_t printed = 0;
  for (const ProfileRow& row : report.rows()) {
    if (++printed > o.top) break;
    const Rates rates = rates_of(row, rooflines);
    JsonObject object;
    object.add("kernel", row.kernel).add("key", row.key).add("structure", row.structure).add("schedule", row.schedule);
    object.add("source", row.source).add("device", row.device).add("calls", row.calls).add("seconds", row.seconds);
    object.add("share", row.seconds / report.launch_seconds()).add("flops", row.flops).add("bytes", row.bytes);
    object.add("flops_per_second", rates.flops_per_second).add("bytes_per_second", rates.bytes_per_second);
    if (rates.percent_of_roofline > 0) object.add("percent_of_roofline", rates.percent_of_roofline);
    object.add("estimated", row.estimated);
    std::printf("%s\n", object.text().c_str());
  }
}

void print_table(const ProfileOptions& o, const ProfileReport& report,
                 const std::map<std::string, bench::Peak>& rooflines) {
  const std::vector<ProfileRow> rows = report.rows();
  std::printf("\n%8s %10s %6s %14s %11s %5s  kernel\n", "calls", "total ms", "share", "FLOP/s", "bytes/s", "roof");
  for (size_t i = 0; i < rows.size() && i < static_cast<size_t>(o.top); ++i) {
    const ProfileRow& row = rows[i];
    const Rates rates = rates_of(row, rooflines);
    const std::string percent = rates.percent_of_roofline > 0 ? format_fixed(rates.percent_of_roofline, 0) + "%" : "?";
    const std::string name = row.kernel + " " + row.key.substr(0, 8) + (row.source.empty() ? "" : "  " + row.source);
    std::printf("%8llu %10.2f %5.1f%% %14s %11s %5s  %s%s\n", static_cast<unsigned long long>(row.calls),
                row.seconds * 1e3, 100 * row.seconds / report.launch_seconds(),
                format_rate(rates.flops_per_second, "FLOP/s").c_str(),
                (format_bytes(rates.bytes_per_second) + "/s").c_str(), percent.c_str(), printable(name).c_str(),
                row.estimated ? "  (work estimated)" : "");
  }
  if (rows.size() > static_cast<size_t>(o.top))
    std::printf("... and %zu kernels more; --top shows more of them\n", rows.size() - static_cast<size_t>(o.top));
  std::printf("launches %.1f ms, planning %.1f ms, compiling %.1f ms\n", report.launch_seconds() * 1e3,
              report.plan_seconds() * 1e3, report.compile_seconds() * 1e3);
  for (const auto& [device, roofline] : rooflines)
    std::printf("roof of %s, measured now: %s, %s/s\n", device.c_str(),
                format_rate(roofline.flops_per_second, "FLOP/s").c_str(),
                format_bytes(roofline.bytes_per_second).c_str());
  std::printf("%s: open it in Perfetto or chrome://tracing\n", o.output.c_str());
}

Status profile(const Cli& cli, const ProfileOptions& o) {
  if (o.command.empty()) return invalid_argument("which command? For example: sporkle profile -- train config.toml");
  SPORKLE_ASSIGN_OR_RETURN(FileWriter output, FileWriter::create(o.output));
  SPORKLE_ASSIGN_OR_RETURN(const TraceFolder folder, TraceFolder::create());
  const bool own = cli.has_command(o.command[0]);
  std::vector<std::string> arguments = o.command;
  if (own) arguments.insert(arguments.begin(), "sporkle");
  std::fflush(stdout);
  SPORKLE_ASSIGN_OR_RETURN(const int exit_status,
                           run_traced(own ? own_program().string() : o.command[0], arguments, folder.path(), o.json));

  ProfileReport report;
  std::vector<std::string> events;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder.path())) {
    SPORKLE_ASSIGN_OR_RETURN(const std::string trace, read_file(entry.path()));
    SPORKLE_RETURN_IF_ERROR(report.add(trace, &events));
  }
  std::string text = "[";
  for (size_t i = 0; i < events.size(); ++i) text += (i > 0 ? ",\n" : "\n") + events[i];
  SPORKLE_RETURN_IF_ERROR(output.write(text + "\n]\n"));
  SPORKLE_RETURN_IF_ERROR(output.commit());

  std::map<std::string, bench::Peak> rooflines;
  std::set<std::string> tried;
  for (const ProfileRow& row : report.rows()) {
    const bool has_roofline = row.device.starts_with("cpu") || row.device.starts_with("vulkan");
    if (!has_roofline || !tried.insert(row.device).second) continue;
    bench::Setting setting;
    setting.device = row.device;
    SPORKLE_ASSIGN_OR_RETURN(setting.threads, hal::thread_count(0));
    // Without it the profile is still worth having.
    const Result<bench::Peak> peak = bench::peak_of(setting, bench::PeakEffort::brief);
    if (peak.ok())
      rooflines[row.device] = *peak;
    else
      std::fprintf(stderr, "the roof of %s is unknown: %s\n", row.device.c_str(), peak.status().message().c_str());
  }
  if (report.rows().empty()) {
    std::fprintf(stderr, "%s launched no kernels%s\n", o.command[0].c_str(),
                 events.empty() ? ", and wrote no trace: is it a program that uses Sporkle?" : "");
  } else if (o.json) {
    print_json(o, report, rooflines);
  } else {
    print_table(o, report, rooflines);
  }
  if (exit_status != 0)
    return unavailable(o.command[0] + " ended with exit code " + std::to_string(exit_status) +
                       "; this is the profile of what it did until then");
  return {};
}

}  // namespace

void register_profile(Cli& cli) {
  auto options = std::make_shared<ProfileOptions>();
  Command command = cli.command("profile", "Run a command and show where its kernels' time goes");
  command.option("--output", &options->output, "The trace, for Perfetto or chrome://tracing").value_name("FILE");
  command.option("--top", &options->top, "How many kernels to show").range(1, 1e6);
  command.flag("--json", &options->json, "Print one JSON object a kernel; the command's output goes to standard error");
  command.option("command", &options->command, "A command of sporkle, or any program that uses it, after --")
      .value_name("COMMAND");
  command.computes();
  command.example("profile -- train examples/configs/kjv-small.toml --stop-after 20",
                  "Trains for twenty steps and lists the kernels that took longest, with their lines of code.");
  command.action([&cli, options] { return profile(cli, *options); });
}

}  // namespace sporkle::app
