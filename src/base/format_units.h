// Numbers for people: "3.4 MB", "12.3k", "4m 05s". For programs there is --json. Thread-safe.
#pragma once

#include <string>

namespace sporkle {

// Three significant digits and a decimal unit: "999 B", "1.00 kB", "34.5 MB". Negative sizes keep their sign.
std::string format_bytes(double bytes);
// The same without a unit: "999", "1.00k", "34.5M".
std::string format_count(double count);
// With a unit: format_rate(34.5e9, "FLOP/s") is "34.5 GFLOP/s".
std::string format_rate(double count, const char* unit);
// "0.4s", "12s", "4m 05s", "1h 02m", "3d 04h"; "?" when it is not finite or negative.
std::string format_duration(double seconds);
// Fixed decimals: format_fixed(1.5, 3) is "1.500". NaN is "nan".
std::string format_fixed(double value, int decimals);

}  // namespace sporkle
