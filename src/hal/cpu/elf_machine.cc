#include "hal/cpu/elf_machine.h"

#include <elf.h>

#include <cstring>
#include <limits>
#include <utility>

namespace sporkle::hal {
namespace {

uint32_t read_word(const std::byte* place) {
  uint32_t word;
  std::memcpy(&word, place, sizeof word);
  return word;
}

template <typename T>
bool write(std::byte* place, T value) {
  std::memcpy(place, &value, sizeof value);
  return true;
}

// ---- x86-64 ----

size_t width_x86_64(uint32_t type) {
  switch (type) {
    case R_X86_64_64:
      return 8;
    case R_X86_64_PC32:
    case R_X86_64_PLT32:
    case R_X86_64_32:
    case R_X86_64_32S:
    case R_X86_64_GOTPCREL:
    case R_X86_64_GOTPCRELX:
    case R_X86_64_REX_GOTPCRELX:
      return 4;
    default:
      return 0;
  }
}

bool relocate_x86_64(uint32_t type, std::byte* place, uint64_t here, uint64_t target) {
  switch (type) {
    case R_X86_64_64:
      return write(place, target);
    case R_X86_64_32:
      return target <= std::numeric_limits<uint32_t>::max() && write(place, static_cast<uint32_t>(target));
    case R_X86_64_32S:
      return std::in_range<int32_t>(static_cast<int64_t>(target)) && write(place, static_cast<int32_t>(target));
    default: {
      const auto distance = static_cast<int64_t>(target - here);
      return std::in_range<int32_t>(distance) && write(place, static_cast<int32_t>(distance));
    }
  }
}

// ---- AArch64 ----

size_t width_aarch64(uint32_t type) {
  switch (type) {
    case R_AARCH64_ABS64:
    case R_AARCH64_PREL64:
      return 8;
    case R_AARCH64_ABS32:
    case R_AARCH64_PREL32:
    case R_AARCH64_LD_PREL_LO19:
    case R_AARCH64_ADR_PREL_LO21:
    case R_AARCH64_ADR_PREL_PG_HI21:
    case R_AARCH64_ADR_PREL_PG_HI21_NC:
    case R_AARCH64_ADD_ABS_LO12_NC:
    case R_AARCH64_LDST8_ABS_LO12_NC:
    case R_AARCH64_LDST16_ABS_LO12_NC:
    case R_AARCH64_LDST32_ABS_LO12_NC:
    case R_AARCH64_LDST64_ABS_LO12_NC:
    case R_AARCH64_LDST128_ABS_LO12_NC:
    case R_AARCH64_TSTBR14:
    case R_AARCH64_CONDBR19:
    case R_AARCH64_JUMP26:
    case R_AARCH64_CALL26:
    case R_AARCH64_ADR_GOT_PAGE:
    case R_AARCH64_LD64_GOT_LO12_NC:
      return 4;
    default:
      return 0;
  }
}

// Replaces `bits` bits of the instruction from bit `at` on by a number.
bool set_field(std::byte* place, int at, int bits, uint64_t number) {
  const uint32_t mask = ((uint32_t{1} << bits) - 1) << at;
  return write(place, (read_word(place) & ~mask) | (static_cast<uint32_t>(number << at) & mask));
}

// Whether a signed number fits so many bits.
bool fits(int64_t number, int bits) { return number >> (bits - 1) == 0 || number >> (bits - 1) == -1; }

// A branch or a literal's place, in instructions.
bool set_distance(std::byte* place, int at, int bits, int64_t distance) {
  return distance % 4 == 0 && fits(distance / 4, bits) &&
         set_field(place, at, bits, static_cast<uint64_t>(distance / 4));
}

// The 21 bits of ADR and ADRP: two low ones apart from the others.
bool set_adr(std::byte* place, int64_t number) {
  const auto bits = static_cast<uint64_t>(number);
  return set_field(place, 29, 2, bits) && set_field(place, 5, 19, bits >> 2);
}

// The low 12 bits of an address, for an access of 2^scale bytes.
bool set_low(std::byte* place, uint64_t target, int scale) {
  const uint64_t low = target & 0xfff;
  return low % (uint64_t{1} << scale) == 0 && set_field(place, 10, 12, low >> scale);
}

bool relocate_aarch64(uint32_t type, std::byte* place, uint64_t here, uint64_t target) {
  const auto distance = static_cast<int64_t>(target - here);
  switch (type) {
    case R_AARCH64_ABS64:
      return write(place, target);
    case R_AARCH64_PREL64:
      return write(place, distance);
    case R_AARCH64_ABS32:
      return target <= std::numeric_limits<uint32_t>::max() && write(place, static_cast<uint32_t>(target));
    case R_AARCH64_PREL32:
      return std::in_range<int32_t>(distance) && write(place, static_cast<int32_t>(distance));
    case R_AARCH64_ADR_PREL_LO21:
      return fits(distance, 21) && set_adr(place, distance);
    case R_AARCH64_ADR_PREL_PG_HI21:
    case R_AARCH64_ADR_PREL_PG_HI21_NC:
    case R_AARCH64_ADR_GOT_PAGE: {
      const int64_t pages = static_cast<int64_t>((target & ~uint64_t{0xfff}) - (here & ~uint64_t{0xfff})) >> 12;
      return (fits(pages, 21) || type == R_AARCH64_ADR_PREL_PG_HI21_NC) && set_adr(place, pages);
    }
    case R_AARCH64_ADD_ABS_LO12_NC:
    case R_AARCH64_LDST8_ABS_LO12_NC:
      return set_low(place, target, 0);
    case R_AARCH64_LDST16_ABS_LO12_NC:
      return set_low(place, target, 1);
    case R_AARCH64_LDST32_ABS_LO12_NC:
      return set_low(place, target, 2);
    case R_AARCH64_LDST64_ABS_LO12_NC:
    case R_AARCH64_LD64_GOT_LO12_NC:
      return set_low(place, target, 3);
    case R_AARCH64_LDST128_ABS_LO12_NC:
      return set_low(place, target, 4);
    case R_AARCH64_LD_PREL_LO19:
    case R_AARCH64_CONDBR19:
      return set_distance(place, 5, 19, distance);
    case R_AARCH64_TSTBR14:
      return set_distance(place, 5, 14, distance);
    default:  // JUMP26 and CALL26
      return set_distance(place, 0, 26, distance);
  }
}

}  // namespace

uint16_t host_machine() {
#if defined(__x86_64__)
  return EM_X86_64;
#elif defined(__aarch64__)
  return EM_AARCH64;
#else
  return EM_NONE;
#endif
}

std::string_view machine_name(uint16_t machine) {
  switch (machine) {
    case EM_X86_64:
      return "x86-64";
    case EM_AARCH64:
      return "AArch64";
    case EM_RISCV:
      return "RISC-V";
    default:
      return "an unknown processor";
  }
}

size_t relocation_width(uint16_t machine, uint32_t type) {
  return machine == EM_AARCH64 ? width_aarch64(type) : width_x86_64(type);
}

bool is_no_relocation(uint16_t machine, uint32_t type) {
  return type == (machine == EM_AARCH64 ? R_AARCH64_NONE : R_X86_64_NONE);
}

bool goes_through_got(uint16_t machine, uint32_t type) {
  if (machine == EM_AARCH64) return type == R_AARCH64_ADR_GOT_PAGE || type == R_AARCH64_LD64_GOT_LO12_NC;
  return type == R_X86_64_GOTPCREL || type == R_X86_64_GOTPCRELX || type == R_X86_64_REX_GOTPCRELX;
}

bool may_call(uint16_t machine, uint32_t type) {
  if (machine == EM_AARCH64) return type == R_AARCH64_CALL26 || type == R_AARCH64_JUMP26;
  return type == R_X86_64_PLT32 || type == R_X86_64_PC32;
}

bool relocate(uint16_t machine, uint32_t type, std::byte* place, uint64_t here, uint64_t target) {
  return machine == EM_AARCH64 ? relocate_aarch64(type, place, here, target)
                               : relocate_x86_64(type, place, here, target);
}

size_t stub_bytes(uint16_t) { return 16; }

void write_stub(uint16_t machine, std::byte* stub, uint64_t target) {
  if (machine == EM_AARCH64) {
    write(stub, uint32_t{0x58000050});      // ldr x16, the address at stub + 8
    write(stub + 4, uint32_t{0xd61f0200});  // br x16
    write(stub + 8, target);
    return;
  }
  static constexpr unsigned char kJump[] = {0xff, 0x25, 2,    0,
                                            0,    0,    0xcc, 0xcc};  // jmp *2(%rip): the address at stub + 8
  std::memcpy(stub, kJump, sizeof kJump);
  write(stub + 8, target);
}

}  // namespace sporkle::hal
