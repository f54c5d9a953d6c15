#include "bench/rivals.h"

#include <gnu/libc-version.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "base/edit_distance.h"
#include "base/seconds.h"
#include "base/thread_pool.h"
#include "bench/process_rival.h"
#include "bench/torch_script.h"

namespace sporkle::bench {
namespace {

// Moves as many bytes as the case does: a range half as large as its inputs and outputs together, read and written.
class MemcpyRival final : public Rival {
 public:
  MemcpyRival(const Case& subject, int threads)
      : subject_(subject), pool_(threads), size_(static_cast<size_t>(subject.work().bytes / 2)) {
    for (int set = 0; set < subject.sets(); ++set) {
      from_.emplace_back(size_);
      to_.emplace_back(size_);
      for (size_t i = 0; i < size_; ++i) from_.back()[i] = static_cast<std::byte>((i * 2654435761u + 17) >> 13);
    }
  }

  std::string version() const override { return "memcpy of glibc " + std::string(::gnu_get_libc_version()); }
  double value(double seconds) const override { return 2 * static_cast<double>(size_) / seconds * 1e-9; }

  Result<double> run(int repetitions) override {
    const double start_s = now_s();
    for (int i = 0; i < repetitions; ++i) {
      const size_t set = static_cast<size_t>(i) % from_.size();
      pool_.parallel_for(
          static_cast<int64_t>(size_),
          [&](int64_t begin, int64_t end, int) {
            std::memcpy(to_[set].data() + begin, from_[set].data() + begin, static_cast<size_t>(end - begin));
          },
          1 << 16);
    }
    return now_s() - start_s;
  }
  Status poison_outputs() override {
    for (std::vector<std::byte>& bytes : to_) std::ranges::fill(bytes, std::byte{0xa5});
    return {};
  }
  Result<double> check(Case&) override {
    for (size_t set = 0; set < from_.size(); ++set)
      if (std::memcmp(from_[set].data(), to_[set].data(), size_) != 0)
        return internal_error("a copied range differs from its source");
    return 0.0;
  }
  void pause() override {}  // idle workers of the pool sleep
  void resume() override {}

 private:
  const Case& subject_;
  ThreadPool pool_;
  size_t size_;
  std::vector<std::vector<std::byte>> from_, to_;
};

// Sums as many bytes as the case must read, as whole numbers: nothing that reads them takes less time.
class ReadRival final : public Rival {
 public:
  ReadRival(const Case& subject, int threads)
      : subject_(subject), pool_(threads), words_(static_cast<size_t>(subject.work().bytes / sizeof(uint64_t))) {
    for (size_t i = 0; i < words_.size(); ++i) {
      words_[i] = (i * 2654435761u + 17) >> 13;
      expected_ += words_[i];
    }
  }

  std::string version() const override { return "sums of 64-bit words"; }
  double value(double seconds) const override { return subject_.value(seconds); }

  Result<double> run(int repetitions) override {
    const double start_s = now_s();
    for (int i = 0; i < repetitions; ++i) {
      std::atomic<uint64_t> sum = 0;
      pool_.parallel_for(
          static_cast<int64_t>(words_.size()),
          [&](int64_t begin, int64_t end, int) {
            sum += std::accumulate(words_.data() + begin, words_.data() + end, uint64_t{0});
          },
          1 << 13);
      sum_ = sum;
    }
    return now_s() - start_s;
  }
  Status poison_outputs() override {
    sum_ = ~expected_;
    return {};
  }
  Result<double> check(Case&) override {
    if (sum_ != expected_) return internal_error("the sum of what was read is wrong");
    return 0.0;
  }
  void pause() override {}  // idle workers of the pool sleep
  void resume() override {}

 private:
  const Case& subject_;
  ThreadPool pool_;
  std::vector<uint64_t> words_;
  uint64_t expected_ = 0, sum_ = 0;
};

Result<std::unique_ptr<Rival>> open_rival(std::string_view name, const Case& subject, const Setting& setting,
                                          const RivalPrograms& programs) {
  if (name == "memcpy") return std::unique_ptr<Rival>(std::make_unique<MemcpyRival>(subject, setting.threads));
  if (name == "read") return std::unique_ptr<Rival>(std::make_unique<ReadRival>(subject, setting.threads));
  ChildOptions child;
  if (name == "PyTorch") {
    const char* python = std::getenv("SPORKLE_PYTHON");
    child.program = python && *python ? python : "python3";
    child.arguments = {"-u", "-c", std::string(torch_script())};
    Result<std::unique_ptr<Rival>> rival = start_process_rival(std::move(child), subject, setting.threads);
    if (rival.status().code() == Code::not_found)
      return unavailable("not found: " + rival.status().message() + "; name a Python that has torch in SPORKLE_PYTHON");
    return rival;
  }
  child.program = programs.blas_program;
  child.arguments = programs.blas_arguments;
  child.arguments.emplace_back(name);
  return start_process_rival(std::move(child), subject, setting.threads);
}

}  // namespace

Challenger open_challenger(std::string_view name, const Case& subject, const Setting& setting,
                           const RivalPrograms& programs) {
  if (setting.device != "cpu" && setting.device != "reference" && !setting.device.starts_with("cpu:"))
    return {std::string(name), unsupported("runs on the processor only, and this case on " + setting.device)};
  return {std::string(name), open_rival(name, subject, setting, programs)};
}

Result<std::vector<std::string>> choose_rivals(const CaseKind& kind, const std::vector<std::string>& wanted) {
  if (wanted.empty()) return kind.default_rivals;
  if (wanted == std::vector<std::string>{"none"}) return std::vector<std::string>();
  std::vector<std::string> chosen;
  for (const std::string& name : wanted) {
    // Nobody knows by heart which letters of BLIS are capitals.
    const auto found = std::ranges::find_if(kind.rivals, [&](const std::string& rival) {
      return std::ranges::equal(rival, name,
                                [](unsigned char a, unsigned char b) { return std::tolower(a) == std::tolower(b); });
    });
    if (found != kind.rivals.end()) {
      chosen.push_back(*found);
      continue;
    }
    const std::string nearest = nearest_name(name, kind.rivals);
    std::string known = "none";
    for (const std::string& rival : kind.rivals) known += ", " + rival;
    return invalid_argument("the case " + kind.name + " has no rival \"" + name + "\"" +
                            (nearest.empty() ? "" : "; did you mean \"" + nearest + "\"?") + " (it has: " + known +
                            ")");
  }
  return chosen;
}

}  // namespace sporkle::bench
