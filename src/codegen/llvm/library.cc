#include "codegen/llvm/library.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <utility>

namespace sporkle::codegen::llvm {
namespace {

// The part of LLVM's C interface that is used, declared here because no LLVM header is needed to build. These
// signatures have been stable since LLVM 3; opaque pointers stand for LLVM's own types.
using Handle = void*;
constexpr int kAssemblyFile = 0;    // LLVMAssemblyFile
constexpr int kReturnStatus = 2;    // LLVMReturnStatusAction
constexpr int kObjectFile = 1;      // LLVMObjectFile
constexpr int kCodeGenDefault = 2;  // LLVMCodeGenLevelDefault
constexpr int kRelocPic = 2;        // LLVMRelocPIC
constexpr int kCodeModelSmall = 3;  // LLVMCodeModelSmall
constexpr unsigned kOldestMajor = 16;

constexpr const char* kNames[] = {"libLLVM.so.19.1", "libLLVM-19.so.1", "libLLVM-19.so",   "libLLVM.so.20.1",
                                  "libLLVM.so.21.1", "libLLVM.so.22.1", "libLLVM.so.18.1", "libLLVM-18.so.1",
                                  "libLLVM-18.so",   "libLLVM-17.so.1", "libLLVM-17.so",   "libLLVM-16.so.1",
                                  "libLLVM-16.so",   "libLLVM.so"};

constexpr const char* kInitializeX86[] = {"LLVMInitializeX86TargetInfo", "LLVMInitializeX86Target",
                                          "LLVMInitializeX86TargetMC", "LLVMInitializeX86AsmPrinter"};
constexpr const char* kInitializeAArch64[] = {"LLVMInitializeAArch64TargetInfo", "LLVMInitializeAArch64Target",
                                              "LLVMInitializeAArch64TargetMC", "LLVMInitializeAArch64AsmPrinter"};

}  // namespace

struct Library::Functions {
  std::mutex mutex;
  void (*get_version)(unsigned*, unsigned*, unsigned*);
  bool has_aarch64 = false;
  Handle (*context_create)();
  void (*context_dispose)(Handle);
  Handle (*create_memory_buffer)(const char*, size_t, const char*);
  int (*parse_ir)(Handle, Handle, Handle*, char**);
  int (*verify_module)(Handle, int, char**);
  void (*dispose_module)(Handle);
  void (*dispose_message)(char*);
  int (*get_target_from_triple)(const char*, Handle*, char**);
  Handle (*create_target_machine)(Handle, const char*, const char*, const char*, int, int, int);
  void (*dispose_target_machine)(Handle);
  int (*emit_to_memory_buffer)(Handle, Handle, int, char**, Handle*);
  const char* (*get_buffer_start)(Handle);
  size_t (*get_buffer_size)(Handle);
  void (*dispose_memory_buffer)(Handle);
};

Result<Library*> Library::get() {
  static const Result<Library*> library = open();
  return library;
}

Result<Library*> Library::open() {
  void* handle = nullptr;
  std::string tried;
  const char* chosen = std::getenv("SPORKLE_LLVM");
  const auto attempt = [&](const char* name) {
    // Local, and lazily bound: another LLVM that the process may hold (a graphics driver's) stays apart.
    handle = ::dlopen(name, RTLD_LAZY | RTLD_LOCAL);
    if (!handle) tried += (tried.empty() ? "" : ", ") + std::string(name);
    return handle != nullptr;
  };
  if (chosen) {
    attempt(chosen);
  } else {
    for (const char* name : kNames)
      if (attempt(name)) break;
  }
  if (!handle)
    return unsupported("compiling kernels for the CPU needs libLLVM (version 16 or later), and none was found (tried " +
                       tried + "); install the package libllvm19, or set SPORKLE_LLVM to the library's path");
  static Functions f;
  const char* missing = nullptr;
  const auto bind = [&](auto& function, const char* name) {
    void* symbol = ::dlsym(handle, name);
    if (!symbol && !missing) missing = name;
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
  };
  bind(f.get_version, "LLVMGetVersion");
  // The code generators of this library: X86 always, AArch64 where it was built in.
  std::vector<void (*)()> x86, aarch64;
  for (const char* name : kInitializeX86) bind(x86.emplace_back(), name);
  for (const char* name : kInitializeAArch64) aarch64.push_back(reinterpret_cast<void (*)()>(::dlsym(handle, name)));
  bind(f.context_create, "LLVMContextCreate");
  bind(f.context_dispose, "LLVMContextDispose");
  bind(f.create_memory_buffer, "LLVMCreateMemoryBufferWithMemoryRangeCopy");
  bind(f.parse_ir, "LLVMParseIRInContext");
  bind(f.verify_module, "LLVMVerifyModule");
  bind(f.dispose_module, "LLVMDisposeModule");
  bind(f.dispose_message, "LLVMDisposeMessage");
  bind(f.get_target_from_triple, "LLVMGetTargetFromTriple");
  bind(f.create_target_machine, "LLVMCreateTargetMachine");
  bind(f.dispose_target_machine, "LLVMDisposeTargetMachine");
  bind(f.emit_to_memory_buffer, "LLVMTargetMachineEmitToMemoryBuffer");
  bind(f.get_buffer_start, "LLVMGetBufferStart");
  bind(f.get_buffer_size, "LLVMGetBufferSize");
  bind(f.dispose_memory_buffer, "LLVMDisposeMemoryBuffer");
  if (missing)
    return unsupported(
        "the libLLVM that was found lacks " + std::string(missing) +
        " (it may be older than version 16, or built without X86); install the package libllvm19, or set "
        "SPORKLE_LLVM to another library's path");
  unsigned major = 0, minor = 0, patch = 0;
  f.get_version(&major, &minor, &patch);
  static Library library;
  library.version_ = std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
  if (major < kOldestMajor)
    return unsupported("libLLVM " + library.version_ +
                       " was found, and version 16 or later is needed; install the "
                       "package libllvm19, or set SPORKLE_LLVM to another library's path");
  for (const auto initialize : x86) initialize();
  f.has_aarch64 = std::ranges::all_of(aarch64, [](const auto initialize) { return initialize != nullptr; });
  if (f.has_aarch64)
    for (const auto initialize : aarch64) initialize();
  library.functions_ = &f;
  return &library;
}

Result<std::vector<std::byte>> Library::compile(std::string_view ir_text, const CpuTarget& processor, Output output) {
  const int file_type = output == Output::assembly ? kAssemblyFile : kObjectFile;
  Functions& f = *functions_;
  if (!processor.is_x86() && !f.has_aarch64)
    return unsupported("libLLVM " + version_ + " was built without AArch64; install the package libllvm19");
  const std::string triple(processor.triple()), cpu(processor.llvm_cpu()), features = processor.llvm_features();
  const std::lock_guard lock(f.mutex);
  char* message = nullptr;
  const auto failure = [&](const char* what) {
    std::string text = std::string(what) + (message ? std::string(": ") + message : "");
    if (message) f.dispose_message(message);
    return internal_error(text);
  };
  Handle context = f.context_create();
  Handle module = nullptr;
  Handle source = f.create_memory_buffer(ir_text.data(), ir_text.size(), "kernel");  // parse_ir takes ownership
  const bool parsed = f.parse_ir(context, source, &module, &message) == 0;
  if (!parsed || f.verify_module(module, kReturnStatus, &message) != 0) {
    const Status status = failure("LLVM refused the generated IR");
    if (parsed) f.dispose_module(module);
    f.context_dispose(context);
    return status;
  }
  if (message) f.dispose_message(std::exchange(message, nullptr));  // the verifier gives one even when all is well
  Handle target = nullptr, machine = nullptr, object = nullptr;
  Status status;
  if (f.get_target_from_triple(triple.c_str(), &target, &message) != 0) {
    status = failure("LLVM knows no such target");
  } else {
    machine = f.create_target_machine(target, triple.c_str(), cpu.c_str(), features.c_str(), kCodeGenDefault, kRelocPic,
                                      kCodeModelSmall);
    if (f.emit_to_memory_buffer(machine, module, file_type, &message, &object) != 0)
      status = failure("LLVM could not generate code");
  }
  std::vector<std::byte> code;
  if (status.ok()) {
    const auto* start = reinterpret_cast<const std::byte*>(f.get_buffer_start(object));
    code.assign(start, start + f.get_buffer_size(object));
    f.dispose_memory_buffer(object);
  }
  if (machine) f.dispose_target_machine(machine);
  f.dispose_module(module);
  f.context_dispose(context);
  if (!status.ok()) return status;
  return code;
}

}  // namespace sporkle::codegen::llvm
