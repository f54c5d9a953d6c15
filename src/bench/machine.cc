#include "bench/machine.h"

#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <cmath>
#include <ctime>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/json_writer.h"
#include "hal/registry.h"

namespace sporkle::bench {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

// Kernel code depends on these; the dozens of others say nothing about speed. Names as /proc/cpuinfo has them, of
// x86-64 and then of AArch64.
constexpr std::array kFeatures = {"sse4_2",   "avx",      "avx2",     "fma",         "f16c",        "bmi2",
                                  "avx512f",  "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
                                  "avx_vnni", "amx_tile", "amx_bf16", "amx_int8",    "asimd",       "asimddp",
                                  "fphp",     "sve",      "sve2",     "bf16",        "i8mm"};

// Files of proc/ and sys/ have no size of their own, so they are read line by line. Empty where there is none.
std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string trimmed(std::string text) {
  const auto is_space = [](unsigned char c) { return std::isspace(c) != 0; };
  text.erase(std::find_if_not(text.rbegin(), text.rend(), is_space).base(), text.end());
  text.erase(text.begin(), std::find_if_not(text.begin(), text.end(), is_space));
  return text;
}

void read_processors(const fs::path& root, Machine* machine) {
  std::ifstream file(root / "proc/cpuinfo");
  std::string features;
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string key = trimmed(line.substr(0, colon)), value = trimmed(line.substr(colon + 1));
    if (key == "processor") ++machine->cores;
    if (key == "model name" && machine->cpu.empty()) machine->cpu = value;
    if ((key == "flags" || key == "Features") && features.empty()) features = " " + value + " ";
  }
  for (const std::string feature : kFeatures) {
    if (features.find(" " + feature + " ") == std::string::npos) continue;
    machine->cpu_features += (machine->cpu_features.empty() ? "" : " ") + feature;
  }
}

// The number of processors in a list such as "0-3,8,10-11".
int processors_in(const std::string& list) {
  int count = 0;
  std::istringstream stream(list);
  for (std::string part; std::getline(stream, part, ',');) {
    int first = 0, last = 0;
    const int read = std::sscanf(part.c_str(), "%d-%d", &first, &last);
    if (read >= 1) count += read == 2 && last > first ? last - first + 1 : 1;
  }
  return std::max(count, 1);
}

void read_caches(const fs::path& root, Machine* machine) {
  const fs::path folder = root / "sys/devices/system/cpu/cpu0/cache";
  for (int i = 0; fs::exists(folder / ("index" + std::to_string(i))); ++i) {
    const fs::path index = folder / ("index" + std::to_string(i));
    Cache cache;
    cache.level = std::atoi(first_line(index / "level").c_str());
    cache.type = first_line(index / "type");
    std::ranges::transform(cache.type, cache.type.begin(), [](unsigned char c) { return std::tolower(c); });
    const std::string size = first_line(index / "size");  // "48K"
    char unit = 0;
    unsigned long long number = 0;
    if (std::sscanf(size.c_str(), "%llu%c", &number, &unit) < 1 || cache.level < 1) continue;
    cache.size_bytes = number * (unit == 'K' ? 1024 : unit == 'M' ? 1024 * 1024 : 1);
    cache.shared_by = processors_in(first_line(index / "shared_cpu_list"));
    machine->caches.push_back(std::move(cache));
  }
}

uint64_t read_memory(const fs::path& root) {
  std::ifstream file(root / "proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    unsigned long long kib = 0;
    if (std::sscanf(line.c_str(), "MemTotal: %llu kB", &kib) == 1) return kib * 1024;
  }
  return 0;
}

std::string today() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  std::array<char, 16> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%d", &utc);
  return text.data();
}

std::string compiler() {
#if defined(__clang__)
  std::string name = "clang " + std::to_string(__clang_major__) + "." + std::to_string(__clang_minor__) + "." +
                     std::to_string(__clang_patchlevel__);
#else
  std::string name = "g++ " + std::to_string(__GNUC__) + "." + std::to_string(__GNUC_MINOR__) + "." +
                     std::to_string(__GNUC_PATCHLEVEL__);
#endif
#if defined(__OPTIMIZE__)
  name += ", optimised";
#else
  name += ", not optimised";
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  name += ", sanitizers";
#endif
  return name;
}

// "Intel(R) Xeon(R) Processor" and 2 -> "intel-xeon-2-cores".
std::string short_name(const std::string& cpu, int cores) {
  std::string words;
  for (const char* p = cpu.c_str(); *p && *p != '@'; ++p) {
    const auto c = static_cast<unsigned char>(*p);
    words += std::isalnum(c) ? static_cast<char>(std::tolower(c)) : *p == '(' || *p == ')' || *p == '-' ? '\n' : ' ';
  }
  // Trade marks stand in brackets right behind a word; brackets became line ends, so each is a word of its own.
  std::ranges::replace(words, '\n', ' ');
  std::istringstream stream(words);
  std::string name;
  for (std::string word; stream >> word;) {
    if (word == "r" || word == "tm" || word == "cpu" || word == "processor") continue;
    name += word + "-";
  }
  if (name.empty()) name = "unknown-";
  return name + std::to_string(cores) + (cores == 1 ? "-core" : "-cores");
}

}  // namespace

bool Machine::same_hardware(const Machine& other) const {
  const auto names = [](const Machine& m) {
    std::vector<std::string> all;
    for (const MachineDevice& device : m.devices) all.push_back(device.id + " " + device.name);
    return all;
  };
  return machine == other.machine && cpu == other.cpu && cores == other.cores && caches == other.caches &&
         names(*this) == names(other);
}

Machine describe_machine(const MachineOptions& options) {
  Machine machine;
  read_processors(options.root, &machine);
  if (machine.cpu.empty()) machine.cpu = "unknown";
  read_caches(options.root, &machine);
  machine.machine = short_name(machine.cpu, machine.cores);
  machine.date = today();
  machine.memory_bytes = read_memory(options.root);
  for (const hal::DeviceListing& device : hal::list_devices()) {
    // The null device computes nothing and the reference device is the interpreter: neither is part of a machine.
    if (!device.status.ok() || device.id == "null" || device.id == "reference") continue;
    machine.devices.push_back({device.id, device.info.name, device.info.driver});
    const std::string prefix = "LLVM ";
    if (device.id == "cpu" && device.info.driver.starts_with(prefix))
      machine.llvm = device.info.driver.substr(prefix.size(), device.info.driver.find(',') - prefix.size());
  }
  utsname system{};
  if (::uname(&system) == 0) machine.kernel = std::string(system.sysname) + " " + system.release;
  machine.governor = first_line(options.root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
  machine.compiler = compiler();
  machine.commit = options.commit;
  machine.noise = options.noise;
  return machine;
}

std::string to_json(const Machine& m) {
  JsonArray caches, devices;
  for (const Cache& cache : m.caches) {
    caches.add(JsonObject()
                   .add("level", cache.level)
                   .add("type", cache.type)
                   .add("size_bytes", cache.size_bytes)
                   .add("shared_by", cache.shared_by));
  }
  for (const MachineDevice& device : m.devices)
    devices.add(JsonObject().add("id", device.id).add("name", device.name).add("driver", device.driver));
  return JsonObject()
      .add("name", "machine")
      .add("machine", m.machine)
      .add("date", m.date)
      .add("cpu", m.cpu)
      .add("cpu_features", m.cpu_features)
      .add("cores", m.cores)
      .add("caches", caches)
      .add("memory_bytes", m.memory_bytes)
      .add("devices", devices)
      .add("kernel", m.kernel)
      .add("governor", m.governor)
      .add("compiler", m.compiler)
      .add("llvm", m.llvm)
      .add("commit", m.commit)
      .add("noise", m.noise.value_or(std::numeric_limits<double>::quiet_NaN()))
      .text();
}

namespace {

// Reads fields of the machine's object, or of one in it, and keeps the first error.
class Fields {
 public:
  Fields(const Json& object, Status* status) : object_(object), status_(status) {}

  void text(const char* name, std::string* target, bool required = false) {
    const Json* field = find(name);
    if (!field) {
      if (required) fail("the machine's line lacks the field \"" + std::string(name) + "\"");
    } else if (!field->is_string() || (required && field->get_ref<const std::string&>().empty())) {
      wrong(name, *field, required ? "a string that is not empty" : "a string");
    } else {
      *target = field->get<std::string>();
    }
  }
  template <typename T>
  void count(const char* name, T* target) {
    const Json* field = find(name);
    if (!field) return;
    if (!field->is_number_unsigned() || field->get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<T>::max()))
      return wrong(name, *field,
                   "a whole number of at least 0 and at most " + std::to_string(std::numeric_limits<T>::max()));
    *target = field->get<T>();
  }
  void number(const char* name, std::optional<double>* target) {
    const Json* field = find(name);
    if (!field) return;
    if (!field->is_number() || !std::isfinite(field->get<double>()) || field->get<double>() < 0)
      return wrong(name, *field, "a number of at least 0");
    *target = field->get<double>();
  }
  // Calls `read` for each object of an array.
  void objects(const char* name, const std::function<void(Fields&)>& read) {
    const Json* field = find(name);
    if (!field) return;
    if (!field->is_array()) return wrong(name, *field, "an array");
    for (const Json& element : *field) {
      if (!element.is_object()) return wrong(name, element, "an object in each place");
      Fields fields(element, status_);
      read(fields);
    }
  }

 private:
  const Json* find(const char* name) const {
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  void fail(std::string message) {
    if (status_->ok()) *status_ = corrupt_data(std::move(message));
  }
  void wrong(const char* name, const Json& found, const std::string& expected) {
    std::string text = found.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (text.size() > 60) text = text.substr(0, 60) + "...";
    fail("field \"" + std::string(name) + "\" of the machine's line is " + text + ", not " + expected);
  }

  const Json& object_;
  Status* status_;
};

}  // namespace

Result<Machine> parse_machine(std::string_view line) {
  const Json object = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return corrupt_data("a machine's line that is no JSON object");
  Machine m;
  Status status;
  Fields fields(object, &status);
  fields.text("machine", &m.machine, true);
  fields.text("date", &m.date, true);
  fields.text("cpu", &m.cpu, true);
  fields.text("cpu_features", &m.cpu_features);
  fields.count("cores", &m.cores);
  fields.objects("caches", [&](Fields& cache_fields) {
    Cache cache;
    cache_fields.count("level", &cache.level);
    cache_fields.text("type", &cache.type);
    cache_fields.count("size_bytes", &cache.size_bytes);
    cache_fields.count("shared_by", &cache.shared_by);
    m.caches.push_back(std::move(cache));
  });
  fields.count("memory_bytes", &m.memory_bytes);
  fields.objects("devices", [&](Fields& device_fields) {
    MachineDevice device;
    device_fields.text("id", &device.id);
    device_fields.text("name", &device.name);
    device_fields.text("driver", &device.driver);
    m.devices.push_back(std::move(device));
  });
  fields.text("kernel", &m.kernel);
  fields.text("governor", &m.governor);
  fields.text("compiler", &m.compiler);
  fields.text("llvm", &m.llvm);
  fields.text("commit", &m.commit);
  fields.number("noise", &m.noise);
  if (!status.ok()) return status;
  return m;
}

}  // namespace sporkle::bench
