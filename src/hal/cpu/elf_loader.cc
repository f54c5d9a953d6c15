#include "hal/cpu/elf_loader.h"

#include <elf.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "hal/cpu/elf_machine.h"

namespace sporkle::hal {
namespace {

constexpr size_t kLargestObject = size_t{64} << 20;
constexpr size_t kLargestAlignment = 4096;

Status corrupt(std::string what) { return corrupt_data("object file: " + std::move(what)); }

// The address of a symbol that objects may use from outside themselves; nullptr for any other.
const void* external_address(std::string_view name) {
  if (name == "fmaf") return reinterpret_cast<const void*>(static_cast<float (*)(float, float, float)>(&::fmaf));
  if (name == "fma") return reinterpret_cast<const void*>(static_cast<double (*)(double, double, double)>(&::fma));
  if (name == "memset") return reinterpret_cast<const void*>(&::memset);
  if (name == "memcpy") return reinterpret_cast<const void*>(&::memcpy);
  if (name == "memmove") return reinterpret_cast<const void*>(&::memmove);
  return nullptr;
}

size_t round_up(size_t value, size_t alignment) { return (value + alignment - 1) / alignment * alignment; }

// Reads of the file, each checked against its end.
class FileView {
 public:
  explicit FileView(std::span<const std::byte> bytes) : bytes_(bytes) {}

  template <typename T>
  std::optional<T> read(uint64_t offset) const {
    static_assert(std::is_trivially_copyable_v<T>);
    if (!contains(offset, sizeof(T))) return std::nullopt;
    T value;
    ::memcpy(&value, bytes_.data() + offset, sizeof(T));
    return value;
  }
  bool contains(uint64_t offset, uint64_t size) const {
    return offset <= bytes_.size() && size <= bytes_.size() - offset;
  }
  std::span<const std::byte> slice(uint64_t offset, uint64_t size) const { return bytes_.subspan(offset, size); }

  // The zero-terminated string at `index` of the string table at [offset, offset + size).
  std::optional<std::string_view> string(const Elf64_Shdr& table, uint64_t index) const {
    if (index >= table.sh_size) return std::nullopt;
    const char* text = reinterpret_cast<const char*>(bytes_.data() + table.sh_offset + index);
    const size_t length = ::strnlen(text, table.sh_size - index);
    if (length == table.sh_size - index) return std::nullopt;
    return std::string_view(text, length);
  }

 private:
  std::span<const std::byte> bytes_;
};

// The steps of loading, in order; each relies on the checks of those before it.
class Loader {
 public:
  explicit Loader(std::span<const std::byte> file) : file_(file) {}

  Status read_sections();
  Status read_symbols();
  Status scan_relocations();  // finds which symbols need an entry in the global offset table, and which a stub
  Status lay_out();
  Status apply_relocations(std::byte* memory) const;
  void copy_contents(std::byte* memory) const;
  void write_stubs(std::byte* memory) const;

  size_t code_bytes() const { return code_bytes_; }
  size_t total_bytes() const { return total_bytes_; }

  struct Section {
    Elf64_Shdr header;
    std::string_view name;
    bool loaded = false;
    size_t offset = 0;  // in the mapping
    bool executable() const { return (header.sh_flags & SHF_EXECINSTR) != 0; }
  };
  struct Symbol {
    std::string_view name;
    uint16_t section = SHN_UNDEF;
    uint64_t value = 0;
    uint64_t size_bytes = 0;
    bool global = false;
    const void* external = nullptr;  // of an undefined symbol
    std::optional<size_t> got_offset, stub_offset;
  };
  const std::vector<Section>& sections() const { return sections_; }
  const std::vector<Symbol>& symbols() const { return symbols_; }

 private:
  struct Relocation {
    uint64_t place;  // in the mapping, once laid out; in `section` before
    uint32_t section;
    uint32_t type;
    uint32_t symbol;
    int64_t addend;
  };
  uint64_t address(const Symbol& symbol, const std::byte* memory) const;

  FileView file_;
  const uint16_t machine_ = host_machine();
  std::vector<Section> sections_;
  std::vector<Symbol> symbols_;
  std::vector<Relocation> relocations_;
  size_t code_bytes_ = 0;   // whole pages
  size_t total_bytes_ = 0;  // whole pages
};

Status Loader::read_sections() {
  const auto header = file_.read<Elf64_Ehdr>(0);
  if (!header || ::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return corrupt("it is no ELF file");
  if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB)
    return corrupt("it is not 64-bit little-endian ELF");
  if (header->e_type != ET_REL) return corrupt("it is not relocatable");
  if (header->e_machine != machine_) {
    return unsupported("object file: it is made for " + std::string(machine_name(header->e_machine)) +
                       ", and this processor is " + std::string(machine_name(machine_)));
  }
  const uint64_t count = header->e_shnum;
  if (header->e_shentsize != sizeof(Elf64_Shdr) || !file_.contains(header->e_shoff, count * sizeof(Elf64_Shdr)))
    return corrupt("its section table passes the end of the file");
  if (header->e_shstrndx >= count) return corrupt("it has no table of section names");

  sections_.resize(count);
  for (uint64_t i = 0; i < count; ++i) {
    Elf64_Shdr& section = sections_[i].header;
    section = *file_.read<Elf64_Shdr>(header->e_shoff + i * sizeof(Elf64_Shdr));
    if (section.sh_type == SHT_NULL) section.sh_size = 0;
    if (section.sh_type != SHT_NOBITS && section.sh_type != SHT_NULL &&
        !file_.contains(section.sh_offset, section.sh_size))
      return corrupt("section " + std::to_string(i) + " passes the end of the file");
  }
  const Elf64_Shdr& names = sections_[header->e_shstrndx].header;
  if (names.sh_type != SHT_STRTAB) return corrupt("its table of section names is none");
  for (Section& section : sections_) {
    const auto name = file_.string(names, section.header.sh_name);
    if (!name) return corrupt("a section's name passes the end of its table");
    section.name = *name;
    const Elf64_Shdr& s = section.header;
    // Unwinding information serves no one here: nothing throws through a kernel.
    if ((s.sh_flags & SHF_ALLOC) == 0 || s.sh_type == SHT_NOTE || section.name == ".eh_frame" || s.sh_size == 0)
      continue;
    const std::string label = "section " + std::string(section.name);
    if (s.sh_type != SHT_PROGBITS && s.sh_type != SHT_NOBITS)
      return corrupt(label + " has the type " + std::to_string(s.sh_type) + ", which cannot be loaded");
    if ((s.sh_flags & (SHF_TLS | SHF_COMPRESSED)) != 0) return corrupt(label + " is thread-local or compressed");
    // Relocated constants (.data.rel.ro) are marked writable for their relocation alone.
    if ((s.sh_flags & SHF_WRITE) != 0 && !section.name.starts_with(".data.rel.ro"))
      return corrupt(label + " is writable; kernels have no data of their own");
    if (s.sh_addralign > kLargestAlignment || (s.sh_addralign > 1 && !std::has_single_bit(s.sh_addralign)))
      return corrupt(label + " has the alignment " + std::to_string(s.sh_addralign));
    if (s.sh_size > kLargestObject) return corrupt(label + " has " + std::to_string(s.sh_size) + " bytes, too many");
    section.loaded = true;
  }
  return {};
}

Status Loader::read_symbols() {
  for (const Section& section : sections_) {
    const Elf64_Shdr& table = section.header;
    if (table.sh_type != SHT_SYMTAB) continue;
    if (!symbols_.empty()) return corrupt("it has two symbol tables");
    if (table.sh_link >= sections_.size() || sections_[table.sh_link].header.sh_type != SHT_STRTAB)
      return corrupt("its symbol table has no names");
    for (uint64_t offset = 0; offset + sizeof(Elf64_Sym) <= table.sh_size; offset += sizeof(Elf64_Sym)) {
      const Elf64_Sym entry = *file_.read<Elf64_Sym>(table.sh_offset + offset);
      const auto name = file_.string(sections_[table.sh_link].header, entry.st_name);
      if (!name) return corrupt("a symbol's name passes the end of its table");
      Symbol symbol{*name, entry.st_shndx, entry.st_value, entry.st_size, ELF64_ST_BIND(entry.st_info) != STB_LOCAL};
      const int type = ELF64_ST_TYPE(entry.st_info);
      if (symbol.section == SHN_UNDEF) {
        symbol.external = external_address(symbol.name);
      } else if (type == STT_FILE || symbol.section == SHN_ABS) {
        symbol.section = SHN_ABS;
      } else if (symbol.section >= sections_.size()) {
        return corrupt("symbol " + std::string(*name) + " lies in no section");
      } else if (const Elf64_Shdr& home = sections_[symbol.section].header;
                 symbol.value > home.sh_size || (symbol.global && symbol.size_bytes > home.sh_size - symbol.value)) {
        return corrupt("symbol " + std::string(*name) + " passes the end of its section");
      } else if (type == STT_TLS || type == STT_GNU_IFUNC) {
        return corrupt("symbol " + std::string(*name) + " is thread-local or indirect");
      }
      symbols_.push_back(symbol);
    }
  }
  return {};
}

Status Loader::scan_relocations() {
  size_t got_entries = 0, stubs = 0;
  for (const Section& table : sections_) {
    const Elf64_Shdr& header = table.header;
    if (header.sh_type != SHT_RELA && header.sh_type != SHT_REL) continue;
    if (header.sh_info >= sections_.size()) return corrupt("a relocation table belongs to no section");
    const Section& target = sections_[header.sh_info];
    if (!target.loaded) continue;
    if (header.sh_type == SHT_REL || target.header.sh_type == SHT_NOBITS)
      return corrupt("section " + std::string(target.name) + " has relocations of a kind that this processor lacks");
    for (uint64_t offset = 0; offset + sizeof(Elf64_Rela) <= header.sh_size; offset += sizeof(Elf64_Rela)) {
      const Elf64_Rela entry = *file_.read<Elf64_Rela>(header.sh_offset + offset);
      const auto type = static_cast<uint32_t>(ELF64_R_TYPE(entry.r_info));
      const auto index = static_cast<uint32_t>(ELF64_R_SYM(entry.r_info));
      if (is_no_relocation(machine_, type)) continue;
      const size_t size = relocation_width(machine_, type);
      if (size == 0) return corrupt("relocation type " + std::to_string(type) + " is not known");
      if (entry.r_offset > target.header.sh_size || size > target.header.sh_size - entry.r_offset)
        return corrupt("a relocation passes the end of section " + std::string(target.name));
      if (index >= symbols_.size()) return corrupt("a relocation names no symbol");
      Symbol& symbol = symbols_[index];
      if (symbol.section == SHN_UNDEF && !symbol.external) {
        return corrupt("it needs \"" + std::string(symbol.name) +
                       "\" from outside; only fmaf, fma, memset, memcpy and memmove are given");
      }
      if (symbol.section != SHN_UNDEF && symbol.section != SHN_ABS && !sections_[symbol.section].loaded)
        return corrupt("a relocation needs section " + std::string(sections_[symbol.section].name) +
                       ", which is not loaded");
      const bool through_got = goes_through_got(machine_, type);
      const bool far_call = symbol.external && may_call(machine_, type);
      // Offsets are within their table until lay_out knows where the tables lie.
      if (through_got && !symbol.got_offset) symbol.got_offset = got_entries++ * sizeof(uint64_t);
      if (far_call && !symbol.stub_offset) symbol.stub_offset = stubs++ * stub_bytes(machine_);
      relocations_.push_back({entry.r_offset, static_cast<uint32_t>(header.sh_info), type, index, entry.r_addend});
    }
  }
  return {};
}

Status Loader::lay_out() {
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  size_t end = 0;
  const auto place_sections = [&](bool executable) {
    for (Section& section : sections_) {
      if (!section.loaded || section.executable() != executable) continue;
      section.offset = round_up(end, std::max<size_t>(1, section.header.sh_addralign));
      end = section.offset + section.header.sh_size;
      if (end > kLargestObject) return false;
    }
    return true;
  };
  const auto place_table = [&](std::optional<size_t> Symbol::*offset, size_t entry_bytes) {
    const size_t start = round_up(end, 16);
    for (Symbol& symbol : symbols_) {
      if (!(symbol.*offset)) continue;
      *(symbol.*offset) += start;
      end = std::max(end, *(symbol.*offset) + entry_bytes);
    }
  };
  bool fits = place_sections(/*executable=*/true);
  place_table(&Symbol::stub_offset, stub_bytes(machine_));
  code_bytes_ = end = round_up(end, page);
  fits = fits && place_sections(/*executable=*/false);
  place_table(&Symbol::got_offset, sizeof(uint64_t));
  total_bytes_ = round_up(end, page);
  if (!fits || total_bytes_ > kLargestObject) return corrupt("it is larger than 64 MiB");
  if (code_bytes_ == 0) return corrupt("it has no code");
  return {};
}

void Loader::copy_contents(std::byte* memory) const {
  for (const Section& section : sections_) {
    if (!section.loaded || section.header.sh_type == SHT_NOBITS) continue;
    const std::span<const std::byte> content = file_.slice(section.header.sh_offset, section.header.sh_size);
    ::memcpy(memory + section.offset, content.data(), content.size());
  }
}

uint64_t Loader::address(const Symbol& symbol, const std::byte* memory) const {
  if (symbol.external) return reinterpret_cast<uint64_t>(symbol.external);
  if (symbol.section == SHN_ABS) return symbol.value;
  return reinterpret_cast<uint64_t>(memory + sections_[symbol.section].offset) + symbol.value;
}

void Loader::write_stubs(std::byte* memory) const {
  for (const Symbol& symbol : symbols_)
    if (symbol.stub_offset) write_stub(machine_, memory + *symbol.stub_offset, address(symbol, memory));
}

Status Loader::apply_relocations(std::byte* memory) const {
  for (const Symbol& symbol : symbols_) {
    if (!symbol.got_offset) continue;
    const uint64_t target = address(symbol, memory);
    ::memcpy(memory + *symbol.got_offset, &target, sizeof target);
  }
  for (const Relocation& relocation : relocations_) {
    const Symbol& symbol = symbols_[relocation.symbol];
    std::byte* place = memory + sections_[relocation.section].offset + relocation.place;
    uint64_t target = address(symbol, memory);
    if (goes_through_got(machine_, relocation.type)) {
      target = reinterpret_cast<uint64_t>(memory + *symbol.got_offset);
    } else if (symbol.stub_offset && may_call(machine_, relocation.type)) {
      target = reinterpret_cast<uint64_t>(memory + *symbol.stub_offset);
    }
    target += static_cast<uint64_t>(relocation.addend);
    if (!relocate(machine_, relocation.type, place, reinterpret_cast<uint64_t>(place), target)) {
      return corrupt("a 32-bit relocation of type " + std::to_string(relocation.type) + " against \"" +
                     std::string(symbol.name) + "\" is out of range; compile position-independent code");
    }
  }
  return {};
}

}  // namespace

LoadedObject::LoadedObject(LoadedObject&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)),
      symbols_(std::move(other.symbols_)) {}

LoadedObject& LoadedObject::operator=(LoadedObject&& other) noexcept {
  std::swap(memory_, other.memory_);
  std::swap(size_bytes_, other.size_bytes_);
  symbols_.swap(other.symbols_);
  return *this;
}

LoadedObject::~LoadedObject() {
  if (memory_) ::munmap(memory_, size_bytes_);
}

Result<const void*> LoadedObject::function(std::string_view name) const {
  const auto found = symbols_.find(name);
  if (found == symbols_.end() || !found->second.executable)
    return corrupt("it has no function \"" + std::string(name) + "\"");
  return static_cast<const void*>(memory_ + found->second.offset);
}

std::span<const std::byte> LoadedObject::constant(std::string_view name) const {
  const auto found = symbols_.find(name);
  if (found == symbols_.end() || found->second.executable) return {};
  return {memory_ + found->second.offset, found->second.size_bytes};
}

Result<LoadedObject> load_elf_object(std::span<const std::byte> file) {
  Loader loader(file);
  SPORKLE_RETURN_IF_ERROR(loader.read_sections());
  SPORKLE_RETURN_IF_ERROR(loader.read_symbols());
  SPORKLE_RETURN_IF_ERROR(loader.scan_relocations());
  SPORKLE_RETURN_IF_ERROR(loader.lay_out());

  const size_t size = loader.total_bytes();
  void* mapping = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return errno_status(errno, "cannot map " + std::to_string(size) + " bytes for code");
  LoadedObject object(static_cast<std::byte*>(mapping), size);
  std::byte* memory = object.memory_;
  loader.copy_contents(memory);
  loader.write_stubs(memory);
  SPORKLE_RETURN_IF_ERROR(loader.apply_relocations(memory));
  __builtin___clear_cache(reinterpret_cast<char*>(memory), reinterpret_cast<char*>(memory) + loader.code_bytes());
  if (::mprotect(memory, loader.code_bytes(), PROT_READ | PROT_EXEC) != 0)
    return errno_status(errno, "cannot make code executable");
  if (size > loader.code_bytes() &&
      ::mprotect(memory + loader.code_bytes(), size - loader.code_bytes(), PROT_READ) != 0)
    return errno_status(errno, "cannot make constants read-only");

  for (const Loader::Symbol& symbol : loader.symbols()) {
    if (!symbol.global || symbol.section == SHN_UNDEF || symbol.section == SHN_ABS || symbol.name.empty()) continue;
    const Loader::Section& section = loader.sections()[symbol.section];
    if (!section.loaded || (section.executable() && symbol.value == section.header.sh_size)) continue;
    object.symbols_.emplace(
        symbol.name, LoadedObject::Symbol{section.offset + symbol.value, symbol.size_bytes, section.executable()});
  }
  return object;
}

}  // namespace sporkle::hal
