#include "bench/process_rival.h"

#include <signal.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/seconds.h"
#include "base/temporary_folder.h"
#include "bench/shared_array.h"
#include "ir/node.h"

namespace sporkle::bench {
namespace {

using Json = nlohmann::json;

constexpr int kAnswer_ms = 300'000;  // opening imports large libraries; no sample takes minutes

class ProcessRival final : public Rival {
 public:
  ProcessRival(ChildProcess child, TemporaryFolder folder, const Case& subject)
      : child_(std::move(child)), folder_(std::move(folder)), subject_(subject) {}

  Status open(int threads) {
    const Problem& problem = subject_.problem();
    Json parameters = Json::object(), sets = Json::array();
    for (const auto& [name, value] : problem.parameters) parameters[name] = value;
    for (const std::vector<const HostArray*>& inputs : problem.inputs) {
      Json in = Json::array(), out = Json::array();
      for (const HostArray* input : inputs) {
        SPORKLE_ASSIGN_OR_RETURN(SharedArray shared, SharedArray::create(input->bytes.size()));
        std::ranges::copy(input->bytes, shared.bytes().begin());
        in.push_back(describe(*input, shared));
        inputs_.push_back(std::move(shared));
      }
      std::vector<SharedArray>& outputs = outputs_.emplace_back();
      for (const HostArray& output : problem.outputs) {
        const HostArray like = make_array(output.name, output.dtype, output.shape);
        SPORKLE_ASSIGN_OR_RETURN(SharedArray shared, SharedArray::create(like.bytes.size()));
        out.push_back(describe(like, shared));
        outputs.push_back(std::move(shared));
      }
      sets.push_back({{"inputs", in}, {"outputs", out}});
    }
    const Json request = {{"do", "open"},
                          {"operation", problem.operation},
                          {"parameters", parameters},
                          {"threads", threads},
                          {"sets", sets}};
    SPORKLE_ASSIGN_OR_RETURN(const Json answer, ask(request));
    if (!answer.contains("version") || !answer["version"].is_string()) return unexpected(answer);
    version_ = answer["version"].get<std::string>();
    return {};
  }

  std::string version() const override { return version_; }
  double value(double seconds) const override { return subject_.value(seconds); }

  Result<double> run(int repetitions) override {
    const double start_s = now_s();
    SPORKLE_ASSIGN_OR_RETURN(const Json answer, ask({{"do", "run"}, {"repetitions", repetitions}}));
    const double passed_s = now_s() - start_s;
    if (!answer.contains("seconds") || !answer["seconds"].is_number()) return unexpected(answer);
    const double seconds = answer["seconds"].get<double>();
    if (!(seconds > 0 && seconds <= passed_s))
      return internal_error("it says that its runs took " + std::to_string(seconds) + " s, and " +
                            std::to_string(passed_s) + " s passed here");
    return seconds;
  }

  Status poison_outputs() override {
    for (const std::vector<SharedArray>& outputs : outputs_)
      for (size_t i = 0; i < outputs.size(); ++i) {
        const std::span<std::byte> bytes = outputs[i].bytes();
        const uint32_t pattern = kPoison;
        for (size_t at = 0; at + sizeof pattern <= bytes.size(); at += sizeof pattern)
          std::memcpy(bytes.data() + at, &pattern, sizeof pattern);
      }
    return {};
  }

  Result<double> check(Case& judge) override {
    SPORKLE_RETURN_IF_ERROR(ask({{"do", "store"}}).status());
    double worst = 0;
    for (size_t set = 0; set < outputs_.size(); ++set) {
      std::vector<HostArray> arrays = judge.problem().outputs;
      for (size_t i = 0; i < arrays.size(); ++i) {
        const std::span<const std::byte> bytes = outputs_[set][i].bytes();
        arrays[i].bytes.assign(bytes.begin(), bytes.end());
      }
      SPORKLE_ASSIGN_OR_RETURN(const double error, judge.check_rival(static_cast<int>(set), arrays));
      worst = std::max(worst, error);
    }
    return worst;
  }

  void pause() override { child_.send_signal(SIGSTOP); }
  void resume() override { child_.send_signal(SIGCONT); }

 private:
  static Json describe(const HostArray& array, const SharedArray& shared) {
    return {
        {"name", array.name}, {"dtype", ir::dtype_name(array.dtype)}, {"shape", array.shape}, {"path", shared.path()}};
  }

  Result<Json> ask(const Json& request) {
    SPORKLE_RETURN_IF_ERROR(child_.write_line(request.dump()).with_context(last_words()));
    const std::optional<std::string> line = child_.read_line(kAnswer_ms);
    if (!line) return unavailable("its process ended or did not answer" + last_words());
    Json answer = Json::parse(*line, nullptr, /*allow_exceptions=*/false);
    if (!answer.is_object()) return internal_error("its process answered \"" + line->substr(0, 200) + "\"");
    if (const auto error = answer.find("error"); error != answer.end())
      return unavailable(error->is_string() ? error->get<std::string>() : error->dump());
    return answer;
  }
  static Status unexpected(const Json& answer) {
    return internal_error("its process answered " + answer.dump().substr(0, 200));
  }
  std::string last_words() const {
    const Result<std::string> log = read_file(folder_.path() / "errors.log");
    if (!log.ok() || log->empty()) return "";
    const std::string end = log->substr(log->size() - std::min<size_t>(log->size(), 500));
    return ": " + end.substr(0, end.find_last_not_of('\n') + 1);
  }

  ChildProcess child_;
  TemporaryFolder folder_;
  const Case& subject_;
  std::string version_;
  std::vector<SharedArray> inputs_;
  std::vector<std::vector<SharedArray>> outputs_;  // of each set
};

}  // namespace

Result<std::unique_ptr<Rival>> start_process_rival(ChildOptions child, const Case& subject, int threads) {
  SPORKLE_ASSIGN_OR_RETURN(TemporaryFolder folder, TemporaryFolder::create("sporkle-rival"));
  child.error_log = folder.path() / "errors.log";
  child.talks = true;
  const std::string count = std::to_string(threads);
  for (const char* name : {"OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"})
    child.environment.emplace_back(name, count);
  // What a shell has set for other programs must not choose the rival's kernels.
  for (const char* name : {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "BLIS_ARCH_TYPE", "BLIS_MODEL_TYPE"})
    child.unset.emplace_back(name);
  SPORKLE_ASSIGN_OR_RETURN(ChildProcess process, ChildProcess::start(child));
  auto rival = std::make_unique<ProcessRival>(std::move(process), std::move(folder), subject);
  SPORKLE_RETURN_IF_ERROR(rival->open(threads));
  return std::unique_ptr<Rival>(std::move(rival));
}

}  // namespace sporkle::bench
