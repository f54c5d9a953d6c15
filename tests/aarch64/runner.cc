// Runs one kernel on an AArch64 processor, real or emulated: loads the object of a job with Sporkle's own loader, calls
// it, and leaves the buffers in the job's file. Linked statically, so that an emulator needs nothing else.
//
// A job is: 64-bit numbers (the object's bytes, how many buffers, how many scalars, the bytes of each buffer, the
// scalars), then the object and each buffer, all of these at multiples of 64 bytes.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "codegen/cpu_abi.h"
#include "hal/cpu/elf_loader.h"
#include "hal/host/float_environment.h"

namespace {

using namespace sporkle;

int fail(const std::string& why) {
  std::fprintf(stderr, "aarch64 runner: %s\n", why.c_str());
  return 1;
}

size_t rounded(size_t size) { return (size + 63) / 64 * 64; }

int run(std::byte* job, size_t size) {
  const auto* numbers = reinterpret_cast<const uint64_t*>(job);
  if (size < 24) return fail("the job is too short");
  const uint64_t object_bytes = numbers[0], buffers = numbers[1], scalars = numbers[2];
  size_t at = rounded(8 * (3 + buffers + scalars));
  const std::span<const std::byte> code(job + at, object_bytes);
  at += rounded(object_bytes);
  std::vector<void*> pointers;
  for (uint64_t i = 0; i < buffers; ++i) {
    pointers.push_back(job + at);
    at += rounded(numbers[3 + i]);
  }
  if (at > size) return fail("the job is cut off");
  const uint64_t* values = numbers + 3 + buffers;

  const Result<hal::LoadedObject> object = hal::load_elf_object(code);
  if (!object.ok()) return fail(object.status().message());
  const auto function = [&](const char* name) {
    const Result<const void*> found = object->function(name);
    if (!found.ok()) std::exit(fail(found.status().message()));
    return const_cast<void*>(*found);
  };
  const auto kernel = reinterpret_cast<codegen::CpuKernelFunction>(function(codegen::kKernelSymbol));
  const auto extent = reinterpret_cast<codegen::CpuThreadExtentFunction>(function(codegen::kThreadExtentSymbol));
  const auto scratch_bytes = reinterpret_cast<codegen::CpuScratchBytesFunction>(function(codegen::kScratchBytesSymbol));
  void* scratch = std::aligned_alloc(64, rounded(static_cast<size_t>(scratch_bytes(values)) + 64));
  const hal::StrictFloatEnvironment environment;
  kernel(pointers.data(), values, scratch, 0, extent(values));
  std::free(scratch);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return fail("usage: runner JOB");
  const int file = ::open(argv[1], O_RDWR);
  struct stat info;
  if (file < 0 || ::fstat(file, &info) != 0) return fail("cannot open the job");
  const auto size = static_cast<size_t>(info.st_size);
  void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) return fail("cannot map the job");
  return run(static_cast<std::byte*>(memory), size);
}
