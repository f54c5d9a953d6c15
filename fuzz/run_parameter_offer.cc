// What a coordinator says of donors, and what a joiner asks a donor for: refused, or understood.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "run/held_parameters.h"
#include "run/parameter_fetch.h"
#include "run/protocol.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sporkle;
  if (size < 2) return 0;
  const size_t body = std::min<size_t>(data[0] | size_t{data[1]} << 8, size - 2);
  const auto* bytes = reinterpret_cast<const std::byte*>(data + 2);
  const mesh::Message message{std::string(reinterpret_cast<const char*>(bytes), body),
                              {bytes + body, bytes + size - 2}};
  const auto offer = run::ParameterOffer::parse(message, 400'000, std::nullopt);
  if (offer.ok() && *offer) {
    if ((*offer)->donors.size() < run::kLeastDonors || (*offer)->manifest.size_bytes != 400'000) std::abort();
    const auto again = run::ParameterOffer::parse((*offer)->encode(), 400'000, std::nullopt);
    if (!again.ok() || !*again || (*again)->donors.size() != (*offer)->donors.size()) std::abort();
  }
  static run::HeldParameters& held = *[] {
    auto* made = new run::HeldParameters;
    made->hold(sporkle::Digest{}, std::make_shared<const std::vector<float>>(100'000));
    return made;
  }();
  const auto piece = held.answer(message);
  if (piece.ok() && (piece->payload.empty() || piece->payload.size() > 400'000)) std::abort();
  return 0;
}
