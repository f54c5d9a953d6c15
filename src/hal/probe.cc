#include "hal/probe.h"

#include <algorithm>
#include <cstring>
#include <sstream>

#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "codegen/compile.h"
#include "hal/probe_cases.h"

namespace sporkle::hal {
namespace {

constexpr std::string_view kMark = "sporkle probe 2";

std::filesystem::path file_for(const DeviceInfo& info, const std::filesystem::path& folder) {
  const Digest key =
      sha256(info.name + "\n" + info.driver + "\n" + info.target + "\n" + std::string(codegen::version()));
  return folder / ("probe-" + to_hex(key));
}

std::string text_of(const NumericsProbe& probe) {
  std::string text = std::string(kMark) + "\n" + std::string(verdict_name(probe.verdict)) + "\n";
  for (const std::string& name : probe.failures) text += "other " + name + "\n";
  for (const std::string& name : probe.untested) text += "untested " + name + "\n";
  return text + to_hex(sha256(text)) + "\n";
}

bool read_probe(const std::string& text, NumericsProbe* probe) {
  constexpr size_t kHashLine = 65;
  if (text.size() < kHashLine) return false;
  const std::string content = text.substr(0, text.size() - kHashLine);
  if (text.substr(content.size()) != to_hex(sha256(content)) + "\n") return false;
  std::istringstream lines(content);
  std::string mark, verdict;
  std::getline(lines, mark);
  std::getline(lines, verdict);
  if (mark != kMark) return false;
  for (const Verdict known : {Verdict::strict, Verdict::stable, Verdict::fast}) {
    if (verdict != verdict_name(known)) continue;
    probe->verdict = known;
    for (std::string kind, name; lines >> kind && std::getline(lines >> std::ws, name);)
      (kind == "other" ? probe->failures : probe->untested).push_back(name);
    return true;
  }
  return false;
}

bool is_denormal(ir::DType type, uint64_t bits) {
  int digits = 0;  // of the fraction
  if (type == ir::DType::f64) digits = 52;
  if (type == ir::DType::f32) digits = 23;
  if (type == ir::DType::bf16) digits = 7;
  if (type == ir::DType::f16) digits = 10;
  const uint64_t magnitude = bits & ((uint64_t{1} << (8 * ir::dtype_size(type) - 1)) - 1);
  return digits > 0 && magnitude > 0 && magnitude < uint64_t{1} << digits;
}

uint64_t element(std::span<const std::byte> bytes, size_t index, size_t size) {
  uint64_t value = 0;
  std::memcpy(&value, bytes.data() + index * size, size);
  return value;
}

std::string hexadecimal(uint64_t value) {
  std::ostringstream text;
  text << std::hex << "0x" << value;
  return text.str();
}

}  // namespace

std::string_view verdict_name(Verdict verdict) {
  constexpr std::string_view kNames[] = {"strict", "stable", "fast"};
  return kNames[static_cast<size_t>(verdict)];
}

Result<NumericsProbe> probe_numerics(Device& device) {
  NumericsProbe probe;
  Status unsupported_by;
  size_t tested = 0;
  for (const ProbeCase& c : all_probe_cases()) {
    const auto code = compile(c, device.info().target);
    if (code.status().code() == Code::unsupported) {
      unsupported_by = code.status();
      probe.untested.push_back(c.name);
      continue;
    }
    if (!code.ok()) return code.status();
    ++tested;
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<std::byte> expected, interpreted(c));
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<std::byte> first, computed(device, c, *code));
    if (first == expected) continue;
    probe.failures.push_back(c.name);
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<std::byte> second, computed(device, c, *code));
    probe.verdict = std::max(probe.verdict, first == second ? Verdict::stable : Verdict::fast);
  }
  if (tested == 0) return unsupported_by;
  return probe;
}

Result<NumericsProbe> cached_numerics(Device& device, const std::filesystem::path& folder) {
  const std::filesystem::path path = file_for(device.info(), folder);
  NumericsProbe probe;
  if (const auto text = read_file(path); text.ok() && read_probe(*text, &probe)) return probe;
  SPORKLE_ASSIGN_OR_RETURN(probe, probe_numerics(device));
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  const Status written = write_file_atomically(path, text_of(probe));
  if (!written.ok()) log(LogLevel::info, "probe", "the verdict is not kept: " + written.message());
  return probe;
}

Result<std::vector<NumericsDifference>> explain_numerics(Device& device, std::string_view target) {
  std::vector<NumericsDifference> differences;
  for (const ProbeCase& c : all_probe_cases()) {
    const auto code = compile(c, target.empty() ? device.info().target : target);
    if (code.status().code() == Code::unsupported) continue;
    if (!code.ok()) return code.status();
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<std::byte> expected, interpreted(c));
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<std::byte> found, computed(device, c, *code));
    if (found == expected) continue;
    NumericsDifference difference{c.name, c.results, 0, 0, ""};
    const auto size = static_cast<size_t>(ir::dtype_size(c.result_type));
    std::string plain;  // an example without denormal numbers says more
    for (size_t i = 0; i < c.results; ++i) {
      const uint64_t want = element(expected, i, size), got = element(found, i, size);
      if (want == got) continue;
      ++difference.different;
      bool denormal = is_denormal(c.result_type, want) || is_denormal(c.result_type, got);
      const bool elementwise = c.results == c.operands[0].size();
      std::string example;
      for (const std::vector<uint64_t>& operand : c.operands) {
        if (!elementwise) break;
        denormal |= is_denormal(c.operand_type, operand[i]);
        example += (example.empty() ? "of " : ", ") + hexadecimal(operand[i]);
      }
      example += (example.empty() ? "" : ": ") + hexadecimal(got) + " in place of " + hexadecimal(want);
      if (denormal) ++difference.with_denormals;
      if (difference.example.empty()) difference.example = example;
      if (plain.empty() && !denormal) plain = example;
    }
    if (!plain.empty()) difference.example = plain;
    differences.push_back(std::move(difference));
  }
  return differences;
}

Result<bool> is_exact(Device& device, std::string_view operation, ir::DType type, std::string_view target) {
  const ProbeCase c = probe_case(operation, type);
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<std::byte> code, compile(c, target));
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<std::byte> expected, interpreted(c));
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<std::byte> result, computed(device, c, code));
  return result == expected;
}

}  // namespace sporkle::hal
