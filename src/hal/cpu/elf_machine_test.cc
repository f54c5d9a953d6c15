#include "hal/cpu/elf_machine.h"

#include <elf.h>
#include <gtest/gtest.h>

#include <cstring>

namespace sporkle::hal {
namespace {

// The instruction after a relocation; 0 where it was refused, which leaves it as it was.
uint32_t relocated(uint32_t instruction, uint32_t type, uint64_t here, uint64_t target) {
  std::byte place[8] = {};
  std::memcpy(place, &instruction, sizeof instruction);
  const bool in_reach = relocate(EM_AARCH64, type, place, here, target);
  uint32_t result;
  std::memcpy(&result, place, sizeof result);
  EXPECT_TRUE(in_reach || result == instruction);
  return in_reach ? result : 0;
}

// What binutils' assembler and linker make of the same.
TEST(ElfMachine, AArch64InstructionsReachTheirTargets) {
  EXPECT_EQ(relocated(0x94000000, R_AARCH64_CALL26, 0x1000, 0x1010), 0x94000004u);            // bl +16
  EXPECT_EQ(relocated(0x94000000, R_AARCH64_CALL26, 0x1000, 0xff0), 0x97fffffcu);             // bl -16
  EXPECT_EQ(relocated(0x14000000, R_AARCH64_JUMP26, 0x8000000, 0), 0x16000000u);              // b -128 MiB
  EXPECT_EQ(relocated(0x90000000, R_AARCH64_ADR_PREL_PG_HI21, 0x1ffc, 0x5008), 0x90000020u);  // adrp x0, +4 pages
  EXPECT_EQ(relocated(0x90000000, R_AARCH64_ADR_PREL_PG_HI21, 0x5008, 0x1ffc), 0x90ffffe0u);  // adrp x0, -4 pages
  EXPECT_EQ(relocated(0x10000000, R_AARCH64_ADR_PREL_LO21, 0x1000, 0x1003), 0x70000000u);     // adr x0, +3
  EXPECT_EQ(relocated(0x91000000, R_AARCH64_ADD_ABS_LO12_NC, 0, 0x12345), 0x910d1400u);       // add x0, x0, #0x345
  EXPECT_EQ(relocated(0x3dc00000, R_AARCH64_LDST128_ABS_LO12_NC, 0, 0x12340), 0x3dc0d000u);   // ldr q0, [x0, #832]
  EXPECT_EQ(relocated(0xf9400000, R_AARCH64_LD64_GOT_LO12_NC, 0, 0x7008), 0xf9400400u);       // ldr x0, [x0, #8]
  EXPECT_EQ(relocated(0x54000000, R_AARCH64_CONDBR19, 0x100, 0x108), 0x54000040u);            // b.eq +8
}

TEST(ElfMachine, WhatIsOutOfReachIsRefused) {
  EXPECT_EQ(relocated(0x94000000, R_AARCH64_CALL26, 0, 0x8000000), 0u);             // 128 MiB
  EXPECT_EQ(relocated(0x94000000, R_AARCH64_CALL26, 0, 2), 0u);                     // between instructions
  EXPECT_EQ(relocated(0x90000000, R_AARCH64_ADR_PREL_PG_HI21, 0, 1ull << 32), 0u);  // 4 GiB
  EXPECT_EQ(relocated(0x3dc00000, R_AARCH64_LDST128_ABS_LO12_NC, 0, 0x348), 0u);    // no multiple of 16
  EXPECT_EQ(relocated(0, R_AARCH64_ABS32, 0, 1ull << 32), 0u);
  EXPECT_EQ(relocated(0, R_AARCH64_PREL32, 0, 1ull << 31), 0u);
}

TEST(ElfMachine, EachMachineHasItsOwnTypes) {
  EXPECT_EQ(relocation_width(EM_AARCH64, R_AARCH64_ABS64), 8u);
  EXPECT_EQ(relocation_width(EM_AARCH64, R_X86_64_PC32), 0u);
  EXPECT_EQ(relocation_width(EM_X86_64, R_AARCH64_CALL26), 0u);
  EXPECT_TRUE(goes_through_got(EM_AARCH64, R_AARCH64_ADR_GOT_PAGE));
  EXPECT_TRUE(may_call(EM_AARCH64, R_AARCH64_JUMP26));
  EXPECT_FALSE(may_call(EM_X86_64, R_X86_64_64));
}

}  // namespace
}  // namespace sporkle::hal
