#include "hal/reference/reference_device.h"

#include "ir/interpreter.h"
#include "ir/text.h"

namespace sporkle::hal {
namespace {

class ReferenceExecutable final : public HostExecutable {
 public:
  ReferenceExecutable(const HostDevice* device, ir::Kernel kernel)
      : HostExecutable(device), kernel_(std::move(kernel)) {
    for (const ir::BufferArgument& buffer : kernel_.buffers) element_sizes_.push_back(ir::dtype_size(buffer.type));
  }

  Status check(std::span<const Binding> bindings, std::span<const uint64_t> scalars) const override {
    return check_arguments(kernel_.name, element_sizes_, kernel_.scalars.size(), bindings, scalars);
  }

  Status run(std::span<const HostSpan> buffers, std::span<const uint64_t> scalars, std::vector<LaunchShare>*) override {
    std::vector<ir::InterpreterBuffer> memory;
    for (const HostSpan& buffer : buffers) memory.push_back({buffer.data, buffer.size_bytes});
    return ir::interpret(kernel_, memory, scalars).with_context("kernel " + kernel_.name);
  }

 private:
  ir::Kernel kernel_;
  std::vector<int> element_sizes_;
};

}  // namespace

ReferenceDevice::ReferenceDevice(size_t memory_limit_bytes)
    : HostDevice({.id = "reference",
                  .name = "reference interpreter",
                  .driver = "executes the IR itself, slowly",
                  .target = "reference",
                  .memory_bytes = memory_limit_bytes},
                 memory_limit_bytes) {}

Result<ExecutableRef> ReferenceDevice::load(std::span<const std::byte> code) {
  Result<ir::Kernel> kernel = ir::parse({reinterpret_cast<const char*>(code.data()), code.size()});
  if (!kernel.ok()) return corrupt_data("device reference: not the text of a kernel: " + kernel.status().message());
  return ExecutableRef(std::make_shared<ReferenceExecutable>(this, std::move(*kernel)));
}

}  // namespace sporkle::hal
