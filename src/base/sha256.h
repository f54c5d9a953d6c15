// SHA-256, by OpenSSL's libcrypto. A Sha256 belongs to one thread at a time; the free function is thread-safe.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace sporkle {

using Digest = std::array<std::byte, 32>;

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void update(std::span<const std::byte> data);
  void update(std::string_view text);
  // The digest of everything so far; the object must not be used after.
  Digest finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

Digest sha256(std::span<const std::byte> data);
Digest sha256(std::string_view text);
// Lower-case hexadecimal.
std::string to_hex(std::span<const std::byte> data);

}  // namespace sporkle
