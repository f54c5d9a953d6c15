#include "hal/cpu/elf_loader.h"

#include <elf.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>
#include <random>

#include "codegen/compile.h"
#include "codegen/cpu_abi.h"
#include "dsl/kernel.h"

namespace sporkle::hal {
namespace {

#if defined(__x86_64__)

using Bytes = std::vector<uint8_t>;

// Writes small relocatable objects, so that every kind of relocation and of damage has a test that needs no compiler.
class ObjectWriter {
 public:
  static constexpr uint16_t kUndefined = SHN_UNDEF;

  ObjectWriter() {
    sections_.push_back({});
    symbols_.push_back({});
  }
  // Returns the section's number.
  uint16_t section(std::string name, Bytes content, uint64_t flags, uint64_t alignment = 16,
                   uint32_t type = SHT_PROGBITS) {
    Section s{std::move(name), {}, std::move(content)};
    s.header.sh_type = type;
    s.header.sh_flags = SHF_ALLOC | flags;
    s.header.sh_addralign = alignment;
    sections_.push_back(std::move(s));
    return static_cast<uint16_t>(sections_.size() - 1);
  }
  uint16_t code(Bytes content) { return section(".text", std::move(content), SHF_EXECINSTR); }
  uint16_t constants(Bytes content) { return section(".rodata", std::move(content), 0); }
  // Returns the symbol's number.
  uint32_t symbol(std::string_view name, uint16_t section, uint64_t value = 0, uint64_t size_bytes = 0,
                  int type = STT_NOTYPE, int binding = STB_GLOBAL) {
    Elf64_Sym s{};
    s.st_name = static_cast<uint32_t>(names_.size());
    names_.append(name).push_back('\0');
    s.st_info = static_cast<unsigned char>(ELF64_ST_INFO(binding, type));
    s.st_shndx = section;
    s.st_value = value;
    s.st_size = size_bytes;
    symbols_.push_back(s);
    return static_cast<uint32_t>(symbols_.size() - 1);
  }
  void relocate(uint16_t section, uint64_t offset, uint32_t type, uint32_t symbol, int64_t addend) {
    Elf64_Rela r{};
    r.r_offset = offset;
    r.r_info = ELF64_R_INFO(static_cast<uint64_t>(symbol), type);
    r.r_addend = addend;
    relocations_[section].push_back(r);
  }

  std::vector<std::byte> finish(uint16_t machine = EM_X86_64, uint16_t type = ET_REL) const {
    std::vector<Section> all = sections_;
    const auto add = [&](std::string name, uint32_t section_type, const void* data, size_t size) -> Elf64_Shdr& {
      const auto* bytes = static_cast<const uint8_t*>(data);
      all.push_back({std::move(name), {}, Bytes(bytes, bytes + size)});
      all.back().header.sh_type = section_type;
      return all.back().header;
    };
    const auto first_table = static_cast<uint32_t>(all.size());
    add(".symtab", SHT_SYMTAB, symbols_.data(), symbols_.size() * sizeof(Elf64_Sym)).sh_link = first_table + 1;
    add(".strtab", SHT_STRTAB, names_.data(), names_.size());
    for (const auto& [target, entries] : relocations_) {
      Elf64_Shdr& header = add(".rela", SHT_RELA, entries.data(), entries.size() * sizeof(Elf64_Rela));
      header.sh_info = target;
      header.sh_link = first_table;
    }
    std::string names(1, '\0');
    add(".shstrtab", SHT_STRTAB, nullptr, 0);
    for (Section& s : all) {
      s.header.sh_name = static_cast<uint32_t>(names.size());
      names.append(s.name).push_back('\0');
    }
    all.back().content.assign(names.begin(), names.end());

    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_type = type;
    header.e_machine = machine;
    header.e_shentsize = sizeof(Elf64_Shdr);
    header.e_shnum = static_cast<uint16_t>(all.size());
    header.e_shstrndx = static_cast<uint16_t>(all.size() - 1);
    std::vector<std::byte> file(sizeof header);
    for (Section& s : all) {
      s.header.sh_offset = file.size();
      if (s.header.sh_type != SHT_NOBITS) s.header.sh_size = s.content.size();
      const auto bytes = std::as_bytes(std::span(s.content));
      if (s.header.sh_type != SHT_NOBITS) file.insert(file.end(), bytes.begin(), bytes.end());
    }
    header.e_shoff = file.size();
    for (const Section& s : all) {
      const auto bytes = std::as_bytes(std::span(&s.header, 1));
      file.insert(file.end(), bytes.begin(), bytes.end());
    }
    std::memcpy(file.data(), &header, sizeof header);
    return file;
  }

  struct Section {
    std::string name;
    Elf64_Shdr header{};
    Bytes content;
  };
  std::vector<Section> sections_;

 private:
  std::vector<Elf64_Sym> symbols_;
  std::string names_ = std::string(1, '\0');
  std::map<uint16_t, std::vector<Elf64_Rela>> relocations_;
};

const Bytes kReturn42 = {0xb8, 42, 0, 0, 0, 0xc3};  // mov $42, %eax; ret

template <typename Function>
Function* function(const LoadedObject& object, std::string_view name) {
  const Result<const void*> found = object.function(name);
  EXPECT_TRUE(found.ok()) << found.status().to_string();
  return found.ok() ? reinterpret_cast<Function*>(const_cast<void*>(*found)) : nullptr;
}

void expect_corrupt(const std::vector<std::byte>& file, std::string_view part) {
  const Result<LoadedObject> object = load_elf_object(file);
  EXPECT_EQ(object.status().code(), Code::corrupt_data) << object.status().to_string();
  EXPECT_NE(object.status().message().find(part), std::string::npos)
      << object.status().message() << "\nlacks: " << part;
}

TEST(ElfLoader, RunsCode) {
  ObjectWriter w;
  w.symbol("answer", w.code(kReturn42), 0, 6, STT_FUNC);
  const Result<LoadedObject> object = load_elf_object(w.finish());
  ASSERT_TRUE(object.ok()) << object.status().to_string();
  EXPECT_EQ(function<int()>(*object, "answer")(), 42);
  EXPECT_EQ(object->function("question").status().code(), Code::corrupt_data);
}

TEST(ElfLoader, ObjectsMove) {
  ObjectWriter w;
  w.symbol("answer", w.code(kReturn42), 0, 6, STT_FUNC);
  Result<LoadedObject> object = load_elf_object(w.finish());
  ASSERT_TRUE(object.ok());
  LoadedObject moved = std::move(*object);
  EXPECT_EQ(function<int()>(moved, "answer")(), 42);
}

TEST(ElfLoader, GivesConstantsOfTheirSize) {
  ObjectWriter w;
  w.symbol("f", w.code(kReturn42));
  w.symbol("numbers", w.constants({1, 2, 3, 4, 5}), 1, 3, STT_OBJECT);
  const Result<LoadedObject> object = load_elf_object(w.finish());
  ASSERT_TRUE(object.ok()) << object.status().to_string();
  const auto numbers = object->constant("numbers");
  ASSERT_EQ(numbers.size(), 3u);
  EXPECT_EQ(numbers[0], std::byte{2});
  EXPECT_TRUE(object->constant("f").empty());
  EXPECT_FALSE(object->function("numbers").ok());
}

TEST(ElfLoader, RelocatesPcRelative) {
  ObjectWriter w;
  // mov constant(%rip), %eax; ret
  const uint16_t text = w.code({0x8b, 0x05, 0, 0, 0, 0, 0xc3});
  const uint16_t data = w.constants({0, 0, 0, 0, 77, 0, 0, 0});
  w.symbol("f", text);
  w.relocate(text, 2, R_X86_64_PC32, w.symbol("", data, 0, 0, STT_SECTION, STB_LOCAL), 4 - 4);
  const Result<LoadedObject> object = load_elf_object(w.finish());
  ASSERT_TRUE(object.ok()) << object.status().to_string();
  EXPECT_EQ(function<int()>(*object, "f")(), 77);
}

TEST(ElfLoader, RelocatesAbsoluteAndThroughTheOffsetTable) {
  for (const uint32_t type : {R_X86_64_GOTPCREL, R_X86_64_GOTPCRELX, R_X86_64_REX_GOTPCRELX}) {
    ObjectWriter w;
    // mov table@GOTPCREL(%rip), %rax; mov (%rax), %rax; mov (%rax), %eax; ret
    const uint16_t text = w.code({0x48, 0x8b, 0x05, 0, 0, 0, 0, 0x48, 0x8b, 0x00, 0x8b, 0x00, 0xc3});
    const uint16_t table = w.section(".data.rel.ro", Bytes(8), SHF_WRITE, 8);
    const uint32_t value = w.symbol("value", w.constants({9, 0, 0, 0}));
    w.symbol("f", text);
    w.relocate(text, 3, type, w.symbol("table", table), -4);
    w.relocate(table, 0, R_X86_64_64, value, 0);
    const Result<LoadedObject> object = load_elf_object(w.finish());
    ASSERT_TRUE(object.ok()) << object.status().to_string();
    EXPECT_EQ(function<int()>(*object, "f")(), 9) << type;
  }
}

TEST(ElfLoader, CallsTheCLibrary) {
  ObjectWriter w;
  const uint16_t text = w.code({0xe9, 0, 0, 0, 0, 0xcc, 0xe9, 0, 0, 0, 0});  // two tail calls
  w.symbol("fused", text, 0);
  w.symbol("move", text, 6);
  w.relocate(text, 1, R_X86_64_PLT32, w.symbol("fmaf", ObjectWriter::kUndefined), -4);
  w.relocate(text, 7, R_X86_64_PLT32, w.symbol("memmove", ObjectWriter::kUndefined), -4);
  const Result<LoadedObject> object = load_elf_object(w.finish());
  ASSERT_TRUE(object.ok()) << object.status().to_string();
  EXPECT_EQ((function<float(float, float, float)>(*object, "fused")(2, 3, 4)), 10);
  char text_buffer[] = "abcdef";
  function<void*(void*, const void*, size_t)>(*object, "move")(text_buffer + 1, text_buffer, 3);
  EXPECT_STREQ(text_buffer, "aabcef");
}

TEST(ElfLoader, GivesNothingElseFromOutside) {
  ObjectWriter w;
  const uint16_t text = w.code({0xe9, 0, 0, 0, 0});
  w.relocate(text, 1, R_X86_64_PLT32, w.symbol("system", ObjectWriter::kUndefined), -4);
  expect_corrupt(w.finish(), "it needs \"system\" from outside");
}

TEST(ElfLoader, Rejects32BitAddressesOutOfRange) {
  for (const uint32_t type : {R_X86_64_32, R_X86_64_32S}) {
    ObjectWriter w;
    const uint16_t text = w.code({0xb8, 0, 0, 0, 0, 0xc3});
    w.relocate(text, 1, type, w.symbol("f", text), 0);
    expect_corrupt(w.finish(), "against \"f\" is out of range; compile position-independent code");
  }
}

TEST(ElfLoader, MemoryIsNotWritable) {
  ObjectWriter w;
  const uint16_t text = w.code({0xc6, 0x05, 0, 0, 0, 0, 1, 0xc3});  // movb $1, constant(%rip); ret
  w.symbol("f", text);
  w.relocate(text, 2, R_X86_64_PC32, w.symbol("c", w.constants({0})), -5);
  const Result<LoadedObject> object = load_elf_object(w.finish());
  ASSERT_TRUE(object.ok()) << object.status().to_string();
  EXPECT_DEATH(function<void()>(*object, "f")(), "");
}

TEST(ElfLoader, NamesTheProcessorOfForeignCode) {
  ObjectWriter w;
  w.code(kReturn42);
  const Result<LoadedObject> object = load_elf_object(w.finish(EM_AARCH64));
  EXPECT_EQ(object.status().code(), Code::unsupported);
  EXPECT_NE(object.status().message().find("made for AArch64, and this processor is x86-64"), std::string::npos)
      << object.status().message();
}

TEST(ElfLoader, RejectsWhatBreaksTheRules) {
  expect_corrupt({}, "no ELF file");
  expect_corrupt(std::vector<std::byte>(200), "no ELF file");
  const auto with = [](const std::function<void(ObjectWriter&)>& change) {
    ObjectWriter w;
    w.symbol("f", w.code(kReturn42));
    change(w);
    return w.finish();
  };
  expect_corrupt(ObjectWriter().finish(), "no code");
  expect_corrupt(ObjectWriter().finish(EM_X86_64, ET_DYN), "not relocatable");
  expect_corrupt(with([](ObjectWriter& w) { w.section(".data", Bytes(8), SHF_WRITE); }), ".data is writable");
  expect_corrupt(with([](ObjectWriter& w) { w.section(".tls", Bytes(8), SHF_TLS); }), "thread-local");
  expect_corrupt(with([](ObjectWriter& w) { w.section(".x", Bytes(8), 0, 3); }), "alignment 3");
  expect_corrupt(with([](ObjectWriter& w) { w.section(".x", Bytes(8), 0, 1 << 20); }), "alignment 1048576");
  expect_corrupt(with([](ObjectWriter& w) { w.section(".x", Bytes(8), 0, 8, SHT_DYNAMIC); }), "cannot be loaded");
  expect_corrupt(with([](ObjectWriter& w) {
                   w.sections_[w.section(".bss", {}, 0, 8, SHT_NOBITS)].header.sh_size = uint64_t{1} << 40;
                 }),
                 "too many");
  expect_corrupt(with([](ObjectWriter& w) { w.symbol("g", 99); }), "lies in no section");
  expect_corrupt(with([](ObjectWriter& w) { w.symbol("g", 1, 7); }), "passes the end of its section");
  expect_corrupt(with([](ObjectWriter& w) { w.symbol("g", 1, 0, 7); }), "passes the end of its section");
  expect_corrupt(with([](ObjectWriter& w) { w.symbol("g", 1, 0, 1, STT_GNU_IFUNC); }), "indirect");
  expect_corrupt(with([](ObjectWriter& w) { w.relocate(1, 1, R_X86_64_TPOFF32, 1, 0); }), "type 23 is not known");
  expect_corrupt(with([](ObjectWriter& w) { w.relocate(1, 3, R_X86_64_PC32, 1, 0); }), "passes the end of section");
  expect_corrupt(with([](ObjectWriter& w) { w.relocate(1, UINT64_MAX, R_X86_64_64, 1, 0); }),
                 "passes the end of section");
  expect_corrupt(with([](ObjectWriter& w) { w.relocate(1, 1, R_X86_64_PC32, 50, 0); }), "names no symbol");
}

// Whatever happens to a file, loading it ends with an object or an error.
void expect_no_crash_when_damaged(const std::vector<std::byte>& file, size_t samples) {
  std::mt19937 random(1);
  const auto attempt = [](std::vector<std::byte> damaged) {
    // A copy of exactly its size, so that address sanitizer sees a read past the end.
    damaged.shrink_to_fit();
    const Result<LoadedObject> object = load_elf_object(damaged);
    if (!object.ok()) {
      EXPECT_FALSE(object.status().message().empty());
      return;
    }
    (void)object->function(codegen::kKernelSymbol);
    for (const std::byte b : object->constant(codegen::kSignatureSymbol)) {
      volatile std::byte read = b;
      (void)read;
    }
  };
  const size_t stride = std::max<size_t>(1, file.size() / samples);
  for (size_t position = 0; position < file.size(); position += stride) {
    for (const unsigned flip : {0x01u, 0x80u, 0xffu, static_cast<unsigned>(random() % 255 + 1)}) {
      std::vector<std::byte> damaged = file;
      damaged[position] ^= static_cast<std::byte>(flip);
      attempt(std::move(damaged));
    }
  }
  for (size_t length = 0; length < file.size(); length += stride) attempt({file.begin(), file.begin() + length});
  for (size_t i = 0; i < samples; ++i) {
    std::vector<std::byte> damaged = file;
    for (int change = 0; change < 16; ++change) damaged[random() % damaged.size()] = static_cast<std::byte>(random());
    attempt(std::move(damaged));
  }
}

TEST(ElfLoader, SurvivesDamageToASmallObject) {
  ObjectWriter w;
  const uint16_t text = w.code({0xe9, 0, 0, 0, 0, 0xcc, 0x8b, 0x05, 0, 0, 0, 0, 0xc3});
  w.symbol(codegen::kKernelSymbol, text, 0, 13, STT_FUNC);
  const uint32_t signature = w.symbol(codegen::kSignatureSymbol, w.constants(Bytes(12)), 0, 12, STT_OBJECT);
  w.relocate(text, 1, R_X86_64_PLT32, w.symbol("fma", ObjectWriter::kUndefined), -4);
  w.relocate(text, 8, R_X86_64_GOTPCREL, signature, -4);
  expect_no_crash_when_damaged(w.finish(), 2000);
}

TEST(ElfLoader, SurvivesDamageToACompiledKernel) {
  const ir::Kernel kernel = dsl::trace("saxpy", [](dsl::KernelBuilder& k) {
    const dsl::Expr n = k.size("n"), a = k.scalar(ir::DType::f32, "a");
    const dsl::Buffer x = k.input(ir::DType::f32, "x"), y = k.in_out(ir::DType::f32, "y");
    k.range("i", n, [&](dsl::Expr i) { y.store(i, fma(a, x[i], y[i]) / x[i]); });
  });
  // The lowest level calls the C library's fma.
  for (const char* target : {"cpu:x86-64", "cpu:x86-64-v3"}) {
    const auto code = codegen::compile(kernel, *lower::Schedule::parse("i:thread1024 i:vec8"), target);
    if (code.status().code() == Code::unsupported) GTEST_SKIP() << code.status().to_string();
    ASSERT_TRUE(code.ok()) << code.status().to_string();
    const Result<LoadedObject> object = load_elf_object(*code);
    ASSERT_TRUE(object.ok()) << object.status().to_string();
    EXPECT_EQ(object->constant(codegen::kSignatureSymbol).size(), 4u * 4);
    expect_no_crash_when_damaged(*code, 1000);
  }
}

#else

TEST(ElfLoader, RefusesX86CodeElsewhere) {
  std::vector<std::byte> file(64);
  EXPECT_FALSE(load_elf_object(file).ok());
}

#endif

}  // namespace
}  // namespace sporkle::hal
