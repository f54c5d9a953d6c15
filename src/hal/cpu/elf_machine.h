// What is particular to a processor about relocating code for it: which bytes a relocation changes, and how. The loader
// (elf_loader.cc) knows what symbols and sections are. Internal; thread-safe.
//
// Sources: System V ABI, AMD64 supplement, and ELF for the Arm 64-bit Architecture, both in the chapter "Relocation".
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace sporkle::hal {

// The processor that this program runs on, as e_machine names it; EM_NONE for one whose code is not loaded.
uint16_t host_machine();
std::string_view machine_name(uint16_t machine);

// Bytes that a relocation of this type changes; 0 for a type that is not known, or none of this machine.
size_t relocation_width(uint16_t machine, uint32_t type);
bool is_no_relocation(uint16_t machine, uint32_t type);
// Whether it refers to the symbol's entry in the global offset table in place of the symbol.
bool goes_through_got(uint16_t machine, uint32_t type);
// Whether it may be the target of a call, so that a symbol that may be far away needs a stub.
bool may_call(uint16_t machine, uint32_t type);

// Changes the bytes at `place`, which will run at address `here`, to refer to `target` (of the symbol, its entry in the
// table or its stub, the addend included). False when the target is out of the relocation's reach or misaligned;
// nothing has changed then.
bool relocate(uint16_t machine, uint32_t type, std::byte* place, uint64_t here, uint64_t target);

// A stub jumps to an address anywhere. Its bytes are a multiple of 8.
size_t stub_bytes(uint16_t machine);
void write_stub(uint16_t machine, std::byte* stub, uint64_t target);

}  // namespace sporkle::hal
