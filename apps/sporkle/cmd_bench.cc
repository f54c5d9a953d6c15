#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <span>

#include "apps/sporkle/allreduce_worker.h"
#include "apps/sporkle/bench_allreduce.h"
#include "apps/sporkle/bench_connections.h"
#include "apps/sporkle/bench_content.h"
#include "apps/sporkle/bench_join.h"
#include "apps/sporkle/bench_rpc.h"
#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "apps/sporkle/version.h"
#include "base/child_process.h"
#include "base/format_units.h"
#include "base/progress.h"
#include "base/terminal.h"
#include "bench/blas_worker.h"
#include "bench/cases.h"
#include "bench/results_file.h"
#include "bench/suite.h"
#include "hal/host/system.h"
#include "ir/node.h"

namespace sporkle::app {
namespace {

using bench::Record;

constexpr const char* kBlasWorker = "blas-worker";

struct BenchCommand {
  std::vector<std::string> shapes, dtypes, against, only;
  std::string device = "cpu", numerics, results = "bench/results", commit;
  int64_t threads = 0, rounds = 9, count = 20, round_trip_ms = 80;
  bool json = false, save = false, resume = false;
};

// "f32,f64" and repeated options alike.
std::vector<std::string> split_commas(const std::vector<std::string>& values) {
  std::vector<std::string> words;
  for (const std::string& value : values)
    for (size_t begin = 0; begin <= value.size();) {
      const size_t end = std::min(value.find(',', begin), value.size());
      words.push_back(value.substr(begin, end - begin));
      begin = end + 1;
    }
  return words;
}

// "0.93 (0.91 to 0.95)".
std::string ratio_text(const Record& r) {
  if (!r.ratio) return "";
  return format_fixed(*r.ratio, 2) + " (" + format_fixed(r.ratio_min.value_or(0), 2) + " to " +
         format_fixed(r.ratio_max.value_or(0), 2) + ")";
}

// Prints records as they come, and keeps them for --save.
class Output {
 public:
  explicit Output(const BenchCommand& command) : command_(command), terminal_(2) {
    progress_.emplace(&terminal_, "bench", 1.0);
  }

  void add(const Record& r) {
    records_.push_back(r);
    if (command_.json) {
      std::printf("%s\n", bench::to_json(r).c_str());
    } else {
      if (records_.size() == 1) print_heading();
      print_row(r);
    }
    std::fflush(stdout);
  }
  void notice(const std::string& text) { terminal_.print(text); }

  // Nothing is drawn for what takes less than two seconds.
  void progress(double done, const std::string& what) {
    const auto passed = std::chrono::steady_clock::now() - start_;
    if (passed > std::chrono::seconds(2)) progress_->update(done, what);
  }

  // Appends what was added since the last time.
  Status save(double noise) {
    SPORKLE_ASSIGN_OR_RETURN(const std::filesystem::path path,
                             bench::append_results(command_.results, machine(noise), unsaved()));
    saved_ = records_.size();
    path_ = path.string();
    return {};
  }
  void say_where() {
    if (saved_ > 0) std::fprintf(stderr, "%zu results are in %s\n", saved_, path_.c_str());
  }
  bench::Machine machine(double noise) const {
    return bench::describe_machine(
        {.commit = command_.commit.empty() ? std::string(built_from()) : command_.commit, .noise = noise});
  }

 private:
  static void print_heading() {
    std::printf("%-11s %-19s %-5s %3s  %18s %6s %6s  %-9s %9s  %-22s %8s\n", "case", "shape", "dtype", "thr", "value",
                "noise", "peak", "rival", "value", "ratio (rounds' range)", "error");
  }
  static void print_row(const Record& r) {
    char value[64];
    std::snprintf(value, sizeof value, "%.4g %s", r.value, r.unit.c_str());
    const auto percent = [](const std::optional<double>& part) {
      return part ? format_fixed(*part, 1) + "%" : std::string();
    };
    char error[32] = "";
    if (r.max_rel_error) std::snprintf(error, sizeof error, "%.1e", *r.max_rel_error);
    char rival_value[32] = "";
    if (r.rival_value) std::snprintf(rival_value, sizeof rival_value, "%.4g", *r.rival_value);
    const std::optional<double> noise = r.noise ? std::optional(100 * *r.noise) : std::nullopt;
    std::printf("%-11s %-19s %-5s %3lld  %18s %6s %6s  %-9s %9s  %-22s %8s\n", r.name.c_str(), r.shape.c_str(),
                r.dtype.c_str(), static_cast<long long>(r.threads), value, percent(noise).c_str(),
                percent(r.percent_of_peak).c_str(), r.rival.c_str(), rival_value,
                (r.ratio || r.rival.empty() ? ratio_text(r) : "not measured").c_str(), error);
  }

  const BenchCommand& command_;
  Terminal terminal_;
  std::optional<Progress> progress_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::span<const Record> unsaved() const { return std::span(records_).subspan(saved_); }

  std::vector<Record> records_;
  size_t saved_ = 0;
  std::string path_;
};

// Whether `kept` has a row, whatever its rival.
bool has_row(const std::vector<Record>& kept, const bench::CaseKind& kind, const bench::Setting& setting) {
  return std::ranges::any_of(kept, [&](const Record& r) {
    return r.name == kind.name && r.shape == setting.shape && r.dtype == ir::dtype_name(setting.dtype) &&
           r.numerics == ir::numerics_name(setting.numerics) && r.device == setting.device &&
           r.threads == setting.threads;
  });
}

// `kept`: for --resume, what need not be measured again; outlives the options.
Result<bench::SuiteOptions> suite_options(const BenchCommand& command, Output& output, std::vector<Record>* kept) {
  bench::SuiteOptions options;
  options.shapes = command.shapes;
  options.dtypes = split_commas(command.dtypes);
  options.against = split_commas(command.against);
  options.numerics = command.numerics;
  options.device = command.device;
  SPORKLE_ASSIGN_OR_RETURN(options.threads, hal::thread_count(static_cast<int>(command.threads)));
  options.rounds = static_cast<int>(command.rounds);
  options.programs = {own_program(), {"bench", kBlasWorker}};
  options.on_record = [&output](const Record& record) { output.add(record); };
  options.on_notice = [&output](const std::string& text) { output.notice(text); };
  options.on_progress = [&output](double done, const std::string& what) { output.progress(done, what); };
  if (command.save || command.resume) options.on_group = [&output](double noise) { return output.save(noise); };
  if (!command.resume) return options;
  SPORKLE_ASSIGN_OR_RETURN(*kept, bench::kept_results(command.results, output.machine(0)));
  if (!kept->empty())
    output.notice(std::to_string(kept->size()) + " results are there already; measuring what is missing");
  options.skip = [kept](const bench::CaseKind& kind, const bench::Setting& setting) {
    return has_row(*kept, kind, setting);
  };
  return options;
}

Status bench_one(const bench::CaseKind& kind, const BenchCommand& command) {
  Output output(command);
  std::vector<Record> kept;
  SPORKLE_ASSIGN_OR_RETURN(const bench::SuiteOptions options, suite_options(command, output, &kept));
  const Status measured = bench::run_cases(std::span(&kind, 1), options);
  output.say_where();
  return measured;
}

Status measure_join(const BenchCommand& command, Output& output) {
  JoinBenchOptions options;
  options.count = command.count;
  options.round_trip_ms = command.round_trip_ms;
  options.on_progress = [&output](double done) { output.progress(done, "join"); };
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<Record> records, bench_join(options));
  for (const Record& record : records) output.add(record);
  if (!command.save && !command.resume) return {};
  SPORKLE_ASSIGN_OR_RETURN(const int threads, hal::thread_count(static_cast<int>(command.threads)));
  SPORKLE_ASSIGN_OR_RETURN(const double noise, bench::noise_of_device(command.device, threads));
  return output.save(noise);
}

Status save_if_asked(const BenchCommand& command, Output& output) {
  if (!command.save) return {};
  SPORKLE_ASSIGN_OR_RETURN(const int threads, hal::thread_count(0));
  SPORKLE_ASSIGN_OR_RETURN(const double noise, bench::noise_of_device(command.device, threads));
  const Status saved = output.save(noise);
  output.say_where();
  return saved;
}

Status bench_rpc_alone(const BenchCommand& command) {
  Output output(command);
  RpcBenchOptions options;
  options.rounds = command.rounds;
  for (const std::string& rival : split_commas(command.against)) {
    if (rival != "grpc" && rival != "none")
      return invalid_argument("--against " + rival + ": the rivals of rpc are grpc and none");
    options.against = rival == "grpc";
  }
  options.on_progress = [&output](double done) { output.progress(done, "rpc"); };
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<Record> records, bench_rpc(options));
  for (const Record& record : records) output.add(record);
  if (!records[0].rival.empty() && !records[0].ratio) output.notice("gRPC was " + records[0].rival_version);
  return save_if_asked(command, output);
}

Status bench_connections_alone(const BenchCommand& command) {
  Output output(command);
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<Record> records, bench_connections(command.count));
  for (const Record& record : records) output.add(record);
  return save_if_asked(command, output);
}

Status bench_allreduce_alone(const BenchCommand& command, AllreduceBenchOptions options) {
  Output output(command);
  options.rounds = command.rounds;
  for (const std::string& rival : split_commas(command.against)) {
    if (rival != "gloo" && rival != "none")
      return invalid_argument("--against " + rival + ": the rivals of allreduce are gloo and none");
    options.against = rival == "gloo";
  }
  options.on_progress = [&output](double done) { output.progress(done, "allreduce"); };
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<Record> records, bench_allreduce(options));
  for (const Record& record : records) output.add(record);
  if (!records[0].rival.empty() && !records[0].ratio) output.notice("Gloo was " + records[0].rival_version);
  return save_if_asked(command, output);
}

Status bench_join_alone(const BenchCommand& command) {
  Output output(command);
  const Status measured = measure_join(command, output);
  output.say_where();
  return measured;
}

// Every case, whatever happens to the others.
Status bench_all(const BenchCommand& command) {
  Output output(command);
  std::vector<Record> kept;
  SPORKLE_ASSIGN_OR_RETURN(const bench::SuiteOptions options, suite_options(command, output, &kept));
  std::vector<bench::CaseKind> kinds;
  bool join = command.only.empty();
  for (const std::string& name : split_commas(command.only)) {
    if (name == "join") {
      join = true;
      continue;
    }
    SPORKLE_ASSIGN_OR_RETURN(const bench::CaseKind* kind, bench::find_case(name));
    kinds.push_back(*kind);
  }
  const Status cases = bench::run_cases(command.only.empty() ? std::span<const bench::CaseKind>(bench::case_kinds())
                                                             : std::span<const bench::CaseKind>(kinds),
                                        options);
  if (std::ranges::any_of(kept, [](const Record& r) { return r.name == "join"; })) join = false;
  const Status joins = join ? measure_join(command, output) : Status();
  output.say_where();
  return cases.ok() ? joins : cases;
}

void add_output_options(Command& command, BenchCommand* o) {
  command.flag("--json", &o->json, "Print one JSON object a line");
  command.flag("--save", &o->save, "Append the results, with this machine's description, to a file in --results");
  command.option("--results", &o->results, "Folder for --save").value_name("FOLDER");
  command.option("--commit", &o->commit, "What --save notes instead of the commit that this program was built from")
      .value_name("TEXT");
}

void add_measuring_options(Command& command, BenchCommand* o) {
  command.option("--device", &o->device, "Where to run; see `sporkle devices`").value_name("ID");
  command.option("--threads", &o->threads, "Threads, for rivals too; 0: as many as may be used").range(0, 1024);
  command.option("--rounds", &o->rounds, "Rounds, at least 7; ratios are per round, the median counts")
      .range(bench::kLeastRounds, 10000);
  command.flag("--resume", &o->resume,
               "Like --save, and leaves out what was saved today by this program on this machine");
  command.computes();
  add_output_options(command, o);
}

void register_case(Command bench, const bench::CaseKind& kind) {
  auto options = std::make_shared<BenchCommand>();
  Command command = bench.command(kind.name, kind.summary);
  command.option("--shape", &options->shapes, "Repeatable: " + kind.shape_form).value_name("SHAPE");
  std::string dtypes, rivals;
  for (const ir::DType dtype : kind.dtypes) dtypes += (dtypes.empty() ? "" : ", ") + std::string(ir::dtype_name(dtype));
  for (const std::string& rival : kind.rivals) rivals += rival + ", ";
  command.option("--dtype", &options->dtypes, "Element types: " + dtypes).value_name("TYPE");
  command
      .option("--numerics", &options->numerics,
              "What bits are promised (" + std::string(ir::numerics_name(kind.numerics.front())) + ")")
      .value_name("NAME");
  command.option("--against", &options->against, "Rivals: " + rivals + "none").value_name("RIVAL");
  add_measuring_options(command, options.get());
  command.example("bench " + kind.name + " --shape " + kind.default_shapes.front() + " --threads 1",
                  "One shape on one thread.");
  command.action([&kind, options] { return bench_one(kind, *options); });
}

}  // namespace

void register_bench(Cli& cli) {
  Command bench = cli.command("bench", "Measure this machine and this program");
  for (const bench::CaseKind& kind : bench::case_kinds()) register_case(bench, kind);

  auto join_options = std::make_shared<BenchCommand>();
  Command join = bench.command("join", "How long a node takes from process start to ready for work");
  join.option("--count", &join_options->count, "How many times").range(1, 100000);
  join.option("--round-trip-ms", &join_options->round_trip_ms,
              "Joins from so far away as well, the address from memory; 0: only over loopback")
      .range(0, 10000);
  add_output_options(join, join_options.get());
  join.example("bench join", "Starts a coordinator here and joins it, over loopback and from 80 ms away.");
  join.action([join_options] { return bench_join_alone(*join_options); });

  auto connections_options = std::make_shared<BenchCommand>();
  connections_options->count = 15000;
  Command connections = bench.command("connections", "What many live connections cost a coordinator's process");
  connections.option("--count", &connections_options->count, "How many connections").range(1, 1000000);
  add_output_options(connections, connections_options.get());
  connections.example("bench connections --count 1000", "Over loopback under mutual TLS, from one other process.");
  connections.action([connections_options] { return bench_connections_alone(*connections_options); });

  auto rpc_options = std::make_shared<BenchCommand>();
  Command rpc = bench.command("rpc", "Calls, latency, streaming and connecting between nodes, beside gRPC");
  rpc.option("--rounds", &rpc_options->rounds, "Rounds; ratios are per round, the median counts").range(1, 10000);
  rpc.option("--against", &rpc_options->against, "Rivals: grpc, none").value_name("RIVAL");
  add_output_options(rpc, rpc_options.get());
  rpc.example("bench rpc", "Over loopback, both ends in this process, under mutual TLS.");
  rpc.action([rpc_options] { return bench_rpc_alone(*rpc_options); });

  auto content_output = std::make_shared<BenchCommand>();
  auto content_options = std::make_shared<ContentBenchOptions>();
  Command content = bench.command("content", "A file to several nodes: by a swarm, beside one source");
  content.option("--megabytes", &content_options->megabytes, "Size of the file, in 10^6 bytes").range(1, 10000);
  content.option("--nodes", &content_options->nodes, "Nodes that fetch it").range(1, 64);
  content.option("--uplink-mbit", &content_options->uplink_mbit, "What every node can send; 0: no limit")
      .range(0, 100000);
  content.flag("--json", &content_output->json, "Print one JSON object a line");
  content.example("bench content --megabytes 21", "Eight nodes with uplinks of 100 Mbit/s, all in this process.");
  content.action([content_options, content_output]() -> Status {
    Output output(*content_output);
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<Record> records, bench_content(*content_options));
    for (const Record& record : records) output.add(record);
    return {};
  });

  auto sum_options = std::make_shared<BenchCommand>();
  auto sum = std::make_shared<AllreduceBenchOptions>();
  Command allreduce = bench.command("allreduce", "Arrays added up between processes, beside PyTorch's Gloo");
  allreduce.option("--rounds", &sum_options->rounds, "Rounds; ratios are per round, the median counts").range(1, 10000);
  allreduce.option("--processes", &sum->processes, "How many processes").range(2, 64);
  allreduce.option("--mebibytes", &sum->mebibytes, "Size of each process's array, MiB").range(1, 16384);
  allreduce.option("--against", &sum_options->against, "Rivals: gloo, none").value_name("RIVAL");
  add_output_options(allreduce, sum_options.get());
  allreduce.example("bench allreduce", "64 MiB in four processes over loopback, in plain text, and with one killed.");
  allreduce.action([sum_options, sum] { return bench_allreduce_alone(*sum_options, *sum); });

  auto all_options = std::make_shared<BenchCommand>();
  Command all = bench.command("all", "Every case with its default shapes, types and rivals");
  add_measuring_options(all, all_options.get());
  all.option("--only", &all_options->only, "Only this case; repeatable").value_name("CASE");
  all.example("bench all --threads 2 --save", "Adds a file of results to bench/results.");
  all.example("bench all --threads 2 --resume", "Goes on where that was interrupted.");
  all.action([all_options] { return bench_all(*all_options); });

  register_bench_reports(bench);

  auto library = std::make_shared<std::string>();
  Command worker = bench.hidden_command(kBlasWorker, "A rival's side of a benchmark, which `bench gemm` starts itself");
  worker.option("library", library.get(), "OpenBLAS or BLIS").required();
  worker.action([library] { return bench::serve_blas(*library, std::cin, std::cout); });

  auto elements = std::make_shared<int64_t>(0);
  Command summer = bench.hidden_command(kAllreduceWorker, "A process of `bench allreduce`, which starts it itself");
  summer.option("elements", elements.get(), "Of f32").range(1, int64_t{1} << 32).required();
  summer.action([elements] { return serve_allreduce(*elements, std::cin, std::cout); });
}

}  // namespace sporkle::app
