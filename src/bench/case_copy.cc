// copy: memory of a device copied by the device (hal::CommandBuffer::copy), and by the C library.
#include <cstring>

#include "base/seconds.h"
#include "bench/case_list.h"
#include "bench/cases.h"
#include "bench/judge.h"
#include "bench/tensor_case.h"

namespace sporkle::bench {
namespace {

class CopyCase final : public Case {
 public:
  CopyCase(const Setting& setting, int64_t count) : setting_(setting), count_(count) {}

  Work work() const override { return work_of(count_); }
  std::string unit() const override { return "GB/s"; }
  double value(double seconds) const override { return work().bytes / seconds * 1e-9; }
  // What the bandwidth of memory allows says nothing about what stays in a cache.
  bool has_roofline() const override { return work().bytes > kInCacheBytes; }
  int sets() const override { return sets_of(work()); }
  const Problem& problem() const override { return problem_; }

  static Work work_of(int64_t count) { return {0, 8.0 * static_cast<double>(count)}; }
  static int sets_of(const Work& work) { return set_count(work.bytes, work.bytes <= kInCacheBytes); }

  Status prepare() override {
    if (setting_.open_context) {
      SPORKLE_ASSIGN_OR_RETURN(context_, setting_.open_context());
    } else {
      SPORKLE_ASSIGN_OR_RETURN(context_, tensor::Context::open(setting_.device, {.threads = setting_.threads}));
    }
    hal::Device& device = context_->device();
    problem_.outputs = {{"y", ir::DType::f32, {count_}, {}}};
    SPORKLE_ASSIGN_OR_RETURN(semaphore_, device.create_semaphore(0));
    for (int set = 0; set < sets(); ++set) {
      HostArray& from = arrays_.emplace_back(make_array("x", ir::DType::f32, {count_}));
      fill_random<float>(from.values<float>(), static_cast<uint64_t>(set) + 1, -1, 1);
      SPORKLE_ASSIGN_OR_RETURN(hal::BufferRef source, device.allocate(from.bytes.size()));
      SPORKLE_ASSIGN_OR_RETURN(hal::BufferRef destination, device.allocate(from.bytes.size()));
      SPORKLE_RETURN_IF_ERROR(device.write({source, 0}, from.bytes));
      from_.push_back(std::move(source));
      to_.push_back(std::move(destination));
    }
    return run(sets()).status();
  }

  Result<Sample> run(int repetitions) override {
    hal::Device& device = context_->device();
    const Result<double> busy_s = device.busy_seconds();
    Sample sample;
    const double start_s = now_s();
    hal::CommandBuffer commands;
    for (int i = 0; i < repetitions; ++i) {
      const size_t set = static_cast<size_t>(i % sets());
      commands.copy({from_[set], 0}, {to_[set], 0}, arrays_[set].bytes.size());
    }
    SPORKLE_RETURN_IF_ERROR(submit(commands));
    sample.host_seconds = now_s() - start_s;
    SPORKLE_RETURN_IF_ERROR(semaphore_->wait(submitted_, -1));
    sample.wall_seconds = now_s() - start_s;
    if (const Result<double> busy_after_s = device.busy_seconds(); busy_s.ok() && busy_after_s.ok())
      sample.device_seconds = *busy_after_s - *busy_s;
    return sample;
  }

  Status poison_outputs() override {
    hal::CommandBuffer commands;
    for (size_t set = 0; set < to_.size(); ++set) commands.fill({to_[set], 0}, arrays_[set].bytes.size(), kPoison);
    SPORKLE_RETURN_IF_ERROR(submit(commands));
    return semaphore_->wait(submitted_, -1);
  }

  Result<double> check() override {
    for (size_t set = 0; set < to_.size(); ++set) {
      HostArray found = make_array("y", ir::DType::f32, {count_});
      SPORKLE_RETURN_IF_ERROR(context_->device().read({to_[set], 0}, found.bytes));
      SPORKLE_RETURN_IF_ERROR(compare_bits<float>(found, arrays_[set].values<float>()));
    }
    return 0.0;
  }
  Result<double> check_rival(int, std::span<const HostArray>) override {
    return internal_error("the case copy hands its inputs to no rival");
  }

 private:
  Status submit(const hal::CommandBuffer& commands) {
    const hal::SemaphorePoint done{semaphore_, ++submitted_};
    return context_->device().submit(commands, {}, {&done, 1});
  }

  Setting setting_;
  int64_t count_;
  std::unique_ptr<tensor::Context> context_;
  Problem problem_;
  hal::SemaphoreRef semaphore_;
  uint64_t submitted_ = 0;
  std::vector<HostArray> arrays_;
  std::vector<hal::BufferRef> from_, to_;  // of each set
};

Result<std::unique_ptr<Case>> make_copy(const Setting& setting) {
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<int64_t> extents, parse_extents(setting.shape, 1, "ELEMENTS"));
  const Work work = CopyCase::work_of(extents[0]);
  return within_memory(setting.shape, 3 * work.bytes * CopyCase::sets_of(work),
                       std::make_unique<CopyCase>(setting, extents[0]));
}

}  // namespace

CaseKind copy_case() {
  CaseKind kind;
  kind.name = "copy";
  kind.summary = "Memory of the device copied by the device";
  kind.shape_form = "ELEMENTS";
  kind.default_shapes = {"67108864", "262144"};
  kind.dtypes = {ir::DType::f32};
  kind.numerics = {ir::Numerics::strict};
  kind.rivals = kind.default_rivals = {"memcpy"};
  kind.make = make_copy;
  return kind;
}

}  // namespace sporkle::bench
