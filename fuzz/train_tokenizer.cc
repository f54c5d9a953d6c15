// Any bytes as a tokenizer.json; one that is accepted gives back the bytes it encodes. Also the tokenizer's own
// training.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "train/bpe.h"
#include "train/tokenizer.h"

namespace {

void check_round_trip(const sporkle::train::Tokenizer& tokenizer, std::string_view text) {
  const auto decoded = tokenizer.decode(tokenizer.encode(text));
  if (!decoded.ok() || *decoded != text) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto model = sporkle::train::bpe_from_json(text, "fuzz");
  if (model.ok() && !model->add_prefix_space) {
    const auto tokenizer = sporkle::train::make_bpe_tokenizer(*model);
    if (tokenizer.ok()) check_round_trip(**tokenizer, text.substr(0, 4096));
  }
  sporkle::train::BpeTrainer trainer;
  trainer.add(text.substr(0, 4096));
  const auto trained = trainer.train(300);
  if (!trained.ok()) std::abort();
  const auto tokenizer = sporkle::train::make_bpe_tokenizer(*trained);
  if (!tokenizer.ok()) std::abort();
  check_round_trip(**tokenizer, text.substr(0, 4096));
  return 0;
}
