// Drives a fuzz target without libFuzzer: replays the files (and the files of the folders) named, then feeds inputs
// made from the seeds 1, 2, 3 ...: random bytes, and the files mutated. The same seed always makes the same input.
//
//   fuzz_x [--seconds S] [--seed N] [FILE or FOLDER]...
//
// --seed N runs that one alone; a crash prints the seed that it needs.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Input = std::vector<uint8_t>;

constexpr size_t max_random_bytes = 4096;

// What runs now, for the crash report: a seed's number or a file's name.
char current[512];

void report_crash(int signal_number) {
  const char start[] = "\nfuzz target crashed on: ";
  // A failing write cannot be helped here.
  if (::write(2, start, sizeof start - 1) && ::write(2, current, std::strlen(current)) && ::write(2, "\n", 1)) {
  }
  ::signal(signal_number, SIG_DFL);
  ::raise(signal_number);
}

void run(const Input& input, const std::string& name) {
  std::snprintf(current, sizeof current, "%s", name.c_str());
  LLVMFuzzerTestOneInput(input.data(), input.size());
}

Input random_input(std::mt19937_64& random) {
  Input input(random() % (max_random_bytes >> random() % 12) + 1);
  // Small values keep lengths and kinds in reach.
  const uint8_t mask = random() % 2 ? 0xFF : 0x0F;
  for (uint8_t& b : input) b = static_cast<uint8_t>(random()) & mask;
  return input;
}

Input mutated(Input input, const Input& other, std::mt19937_64& random) {
  for (uint64_t i = random() % 8 + 1; i > 0 && !input.empty(); --i) {
    const size_t at = random() % input.size();
    switch (random() % 5) {
      case 0:
        input[at] ^= static_cast<uint8_t>(1 << random() % 8);
        break;
      case 1:
        input[at] = static_cast<uint8_t>(random());
        break;
      case 2:
        input.resize(at);
        break;
      case 3:
        input.insert(input.begin() + static_cast<std::ptrdiff_t>(at), random() % 16, static_cast<uint8_t>(random()));
        break;
      default:
        if (!other.empty())
          input.insert(input.end(), other.begin() + static_cast<std::ptrdiff_t>(random() % other.size()), other.end());
    }
  }
  return input;
}

Input make_input(uint64_t seed, const std::vector<Input>& corpus) {
  std::mt19937_64 random(seed);
  if (corpus.empty() || random() % 4 == 0) return random_input(random);
  return mutated(corpus[random() % corpus.size()], corpus[random() % corpus.size()], random);
}

}  // namespace

int main(int argc, char** argv) {
  for (const int signal_number : {SIGABRT, SIGSEGV, SIGFPE, SIGILL, SIGBUS}) ::signal(signal_number, report_crash);
  double seconds = 2;
  uint64_t only_seed = 0;
  std::vector<std::filesystem::path> files;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--seconds" && i + 1 < argc) {
      seconds = std::atof(argv[++i]);
    } else if (argument == "--seed" && i + 1 < argc) {
      only_seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (std::filesystem::is_directory(argument)) {
      for (const auto& entry : std::filesystem::directory_iterator(argument)) files.push_back(entry.path());
    } else if (std::filesystem::exists(argument)) {
      files.emplace_back(argument);
    }
  }
  std::sort(files.begin(), files.end());
  std::vector<Input> corpus;
  for (const auto& file : files) {
    std::ifstream stream(file, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
    if (only_seed == 0) run(corpus.back(), file.string());
  }
  if (only_seed != 0) {
    run(make_input(only_seed, corpus), "--seed " + std::to_string(only_seed));
    return 0;
  }
  run({}, "an empty input");
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  uint64_t seed = 0;
  while (std::chrono::steady_clock::now() < deadline) {
    ++seed;
    run(make_input(seed, corpus), "--seed " + std::to_string(seed));
  }
  std::printf("%zu files and %llu seeds\n", files.size(), static_cast<unsigned long long>(seed));
  return 0;
}
