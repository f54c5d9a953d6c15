#include "apps/sporkle/loaded_model.h"

#include <system_error>

#include "base/format_units.h"
#include "train/checkpoint.h"

namespace sporkle::app {

Result<LoadedModel> load_model(const std::string& path, const std::string& device, int64_t threads,
                               const std::string& quantize) {
  SPORKLE_ASSIGN_OR_RETURN(const train::Checkpoint checkpoint, train::load_checkpoint(path));
  LoadedModel loaded;
  loaded.folder = checkpoint.folder;
  SPORKLE_ASSIGN_OR_RETURN(loaded.tokenizer, train::load_checkpoint_tokenizer(checkpoint.folder));
  SPORKLE_ASSIGN_OR_RETURN(loaded.model,
                           train::LanguageModel::from_checkpoint(checkpoint, {}, {device, static_cast<int>(threads)}));
  if (quantize == kInt8) SPORKLE_RETURN_IF_ERROR(loaded.model->decoder().quantize_int8().with_context(path));
  return loaded;
}

Result<train::TokenizerPtr> load_any_tokenizer(const std::string& name) {
  if (name == "bytes") return train::byte_tokenizer();
  std::error_code error;
  if (std::filesystem::is_directory(name, error)) return train::load_checkpoint_tokenizer(name);
  return train::load_tokenizer(name);
}

std::string model_text(size_t parameter_count) {
  return "GPT, " + format_count(static_cast<double>(parameter_count)) + " parameters";
}

}  // namespace sporkle::app
