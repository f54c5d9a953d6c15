#include "tune/microarchitecture.h"

#include <cstring>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

namespace sporkle::tune {
namespace {

struct Name {
  Microarchitecture value;
  std::string_view text;
};
constexpr Name kNames[] = {
    {Microarchitecture::generic, "generic"},
    {Microarchitecture::zen2, "zen2"},
    {Microarchitecture::zen3, "zen3"},
    {Microarchitecture::zen4, "zen4"},
    {Microarchitecture::zen5, "zen5"},
    {Microarchitecture::skylake_x, "skylake_x"},
    {Microarchitecture::ice_lake_x, "ice_lake_x"},
    {Microarchitecture::sapphire_rapids, "sapphire_rapids"},
};

}  // namespace

std::string_view microarchitecture_name(Microarchitecture microarchitecture) {
  for (const Name& name : kNames)
    if (name.value == microarchitecture) return name.text;
  return "generic";
}

std::optional<Microarchitecture> parse_microarchitecture(std::string_view text) {
  for (const Name& name : kNames)
    if (name.text == text) return name.value;
  return std::nullopt;
}

// Models as in AMD's processor programming references and Intel's "Software Developer's Manual", volume 4, table 2-1.
Microarchitecture classify_processor(std::string_view vendor, unsigned family, unsigned model) {
  if (vendor == "AuthenticAMD") {
    if (family == 0x17) return model >= 0x30 ? Microarchitecture::zen2 : Microarchitecture::generic;
    if (family == 0x19) {
      const bool zen4 = (model >= 0x10 && model <= 0x1f) || (model >= 0x60 && model <= 0xaf);
      return zen4 ? Microarchitecture::zen4 : Microarchitecture::zen3;
    }
    if (family == 0x1a) return Microarchitecture::zen5;
  }
  if (vendor == "GenuineIntel" && family == 6) {
    if (model == 0x55) return Microarchitecture::skylake_x;
    if (model == 0x6a || model == 0x6c) return Microarchitecture::ice_lake_x;
    if (model == 0x8f || model == 0xcf) return Microarchitecture::sapphire_rapids;
  }
  return Microarchitecture::generic;
}

Microarchitecture host_microarchitecture() {
#if defined(__x86_64__) || defined(__i386__)
  static const Microarchitecture host = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    char vendor[12];
    if (!__get_cpuid(0, &a, &b, &c, &d)) return Microarchitecture::generic;
    std::memcpy(vendor, &b, 4);
    std::memcpy(vendor + 4, &d, 4);
    std::memcpy(vendor + 8, &c, 4);
    if (!__get_cpuid(1, &a, &b, &c, &d)) return Microarchitecture::generic;
    unsigned family = a >> 8 & 0xf, model = a >> 4 & 0xf;
    if (family == 0xf || family == 6) model += (a >> 16 & 0xf) << 4;
    if (family == 0xf) family += a >> 20 & 0xff;
    return classify_processor({vendor, sizeof vendor}, family, model);
  }();
  return host;
#else
  return Microarchitecture::generic;
#endif
}

}  // namespace sporkle::tune
