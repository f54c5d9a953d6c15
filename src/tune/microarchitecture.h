// Which kind of processor this is: what a preset is picked by. Thread-safe.
#pragma once

#include <optional>
#include <string_view>

namespace sporkle::tune {

enum class Microarchitecture { generic, zen2, zen3, zen4, zen5, skylake_x, ice_lake_x, sapphire_rapids };

// "generic", "zen4" ...: the names that presets and databases use.
std::string_view microarchitecture_name(Microarchitecture microarchitecture);
std::optional<Microarchitecture> parse_microarchitecture(std::string_view name);

// From CPUID's vendor, family and model (the sums of base and extended fields, as manuals give them). `generic` for
// those not known.
Microarchitecture classify_processor(std::string_view vendor, unsigned family, unsigned model);
// Of this machine; `generic` where there is no CPUID.
Microarchitecture host_microarchitecture();

}  // namespace sporkle::tune
