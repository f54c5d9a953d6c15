// transfer: memory of one device copied to another's (hal/device_copy.h), by a way that is asked for. Both are opened
// on the same card: what two programs, or a program and a renderer, would do.
#include <charconv>

#include "base/seconds.h"
#include "bench/case_list.h"
#include "bench/cases.h"
#include "bench/judge.h"
#include "bench/tensor_case.h"
#include "hal/device_copy.h"
#include "hal/vulkan/vulkan_device.h"

namespace sporkle::bench {
namespace {

constexpr std::string_view kForm = "ELEMENTS[:shared|pinned|staged|read_write]";

class TransferCase final : public Case {
 public:
  TransferCase(const Setting& setting, int64_t count, hal::CopyRoute route)
      : setting_(setting), count_(count), route_(route) {}

  Work work() const override { return work_of(count_); }
  std::string unit() const override { return "GB/s"; }
  // Bytes that arrive.
  double value(double seconds) const override { return 4.0 * static_cast<double>(count_) / seconds * 1e-9; }
  bool has_roofline() const override { return false; }  // the way between devices is none that a peak speaks of
  int sets() const override { return 1; }
  const Problem& problem() const override { return problem_; }
  static Work work_of(int64_t count) { return {0, 8.0 * static_cast<double>(count)}; }

  // unsupported where the way is not offered.
  Status open(size_t number) {
    hal::VulkanOptions options;
    options.host_visible = false;  // memory that the host reaches as well takes no way between
    SPORKLE_ASSIGN_OR_RETURN(source_, hal::open_vulkan_device(number, options));
    SPORKLE_ASSIGN_OR_RETURN(destination_, hal::open_vulkan_device(number, options));
    SPORKLE_ASSIGN_OR_RETURN(copier_, hal::DeviceCopier::create(*source_, *destination_, {.shortest = route_}));
    if (copier_->route() != route_)
      return unsupported("device " + setting_.device + " has no copies by \"" +
                         std::string(hal::copy_route_name(route_)) + "\": " + copier_->reason());
    return {};
  }

  Status prepare() override {
    problem_.outputs = {{"y", ir::DType::f32, {count_}, {}}};
    data_ = make_array("x", ir::DType::f32, {count_});
    fill_random<float>(data_.values<float>(), 1, -1, 1);
    SPORKLE_ASSIGN_OR_RETURN(from_, source_->allocate(data_.bytes.size()));
    SPORKLE_ASSIGN_OR_RETURN(to_, destination_->allocate(data_.bytes.size()));
    SPORKLE_RETURN_IF_ERROR(source_->write({from_}, data_.bytes));
    return run(1).status();
  }

  Result<Sample> run(int repetitions) override {
    Sample sample;
    const double start_s = now_s();
    for (int i = 0; i < repetitions; ++i) SPORKLE_RETURN_IF_ERROR(copier_->copy({from_}, {to_}, data_.bytes.size()));
    sample.wall_seconds = now_s() - start_s;
    return sample;
  }

  Status poison_outputs() override {
    HostArray wrong = make_array("y", ir::DType::f32, {count_});
    poison(&wrong);
    return destination_->write({to_}, wrong.bytes);
  }

  Result<double> check() override {
    HostArray found = make_array("y", ir::DType::f32, {count_});
    SPORKLE_RETURN_IF_ERROR(destination_->read({to_}, found.bytes));
    SPORKLE_RETURN_IF_ERROR(compare_bits<float>(found, data_.values<float>()));
    return 0.0;
  }
  Result<double> check_rival(int, std::span<const HostArray>) override {
    return internal_error("the case transfer hands its inputs to no rival");
  }

 private:
  Setting setting_;
  int64_t count_;
  hal::CopyRoute route_;
  Problem problem_;
  HostArray data_;
  std::shared_ptr<hal::Device> source_, destination_;
  std::unique_ptr<hal::DeviceCopier> copier_;
  hal::BufferRef from_, to_;
};

Result<std::unique_ptr<Case>> make_transfer(const Setting& setting) {
  std::string_view shape = setting.shape;
  hal::CopyRoute route = hal::CopyRoute::shared;
  if (const size_t colon = shape.find(':'); colon != std::string_view::npos) {
    const auto parsed = hal::parse_copy_route(shape.substr(colon + 1));
    if (!parsed.ok() || *parsed < hal::CopyRoute::shared)
      return invalid_argument("shape \"" + setting.shape + "\" ends in \"" + std::string(shape.substr(colon)) +
                              "\"; it reads like " + std::string(kForm));
    route = *parsed;
    shape = shape.substr(0, colon);
  }
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<int64_t> extents, parse_extents(shape, 1, kForm));
  std::string_view device = setting.device;
  size_t number = 0;
  if (!device.starts_with("vulkan"))
    return unsupported("device " + setting.device + " has its memory in the host's: copies between Vulkan devices " +
                       "are measured, as with --device vulkan:0");
  if (const size_t colon = device.find(':'); colon != std::string_view::npos) {
    device.remove_prefix(colon + 1);
    const auto [end, error] = std::from_chars(device.data(), device.data() + device.size(), number);
    if (error != std::errc() || end != device.data() + device.size())
      return not_found("there is no device " + setting.device);
  }
  auto subject = std::make_unique<TransferCase>(setting, extents[0], route);
  SPORKLE_RETURN_IF_ERROR(subject->open(number));
  return within_memory(setting.shape, 3 * TransferCase::work_of(extents[0]).bytes, std::move(subject));
}

}  // namespace

CaseKind transfer_case() {
  CaseKind kind;
  kind.name = "transfer";
  kind.summary = "Memory of one device copied to another's on the same card";
  kind.shape_form = kForm;
  kind.default_shapes = {"67108864:shared", "67108864:pinned", "67108864:staged"};
  kind.dtypes = {ir::DType::f32};
  kind.numerics = {ir::Numerics::strict};
  kind.make = make_transfer;
  return kind;
}

}  // namespace sporkle::bench
