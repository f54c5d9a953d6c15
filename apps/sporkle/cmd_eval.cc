#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "apps/sporkle/loaded_model.h"
#include "base/format_units.h"
#include "base/json_writer.h"
#include "base/progress.h"
#include "base/terminal.h"
#include "train/corpus.h"
#include "train/dataset.h"
#include "train/evaluate.h"
#include "train/token_file.h"

namespace sporkle::app {
namespace {

constexpr int64_t kTokensAtOnce = 4096;

struct EvalOptions {
  std::string checkpoint;
  train::DataConfig data;
  double last = 1;
  int64_t threads = 0;
  std::string device, quantize = kNoQuantization;
  bool logits = false;
  bool json = false;
};

// One JSON object: the text's first tokens, as many as the model sees at once, and the logits of every position.
// Written row by row: for a large vocabulary it is long.
Status print_logits(LoadedModel& loaded, const train::TokenFile& file) {
  const auto length = static_cast<int64_t>(std::min(file.size(), static_cast<uint64_t>(loaded.model->shape().context)));
  std::vector<int32_t> ids(static_cast<size_t>(length));
  file.read(0, ids);
  const tensor::Tensor tokens = tensor::from_host<int32_t>(loaded.model->context(), ids, {1, length});
  SPORKLE_ASSIGN_OR_RETURN(const std::vector<float> logits, loaded.model->decoder().logits(tokens).to_host<float>());
  JsonArray token_list;
  for (const int32_t id : ids) token_list.add(id);
  std::printf("{\"tokens\":%s,\"logits\":[", token_list.text().c_str());
  const size_t vocabulary = logits.size() / ids.size();
  for (size_t row = 0; row < ids.size(); ++row) {
    JsonArray values;
    for (const float value : std::span(logits).subspan(row * vocabulary, vocabulary)) values.add(value);
    std::printf("%s%s", row > 0 ? "," : "", values.text().c_str());
  }
  std::printf("]}\n");
  return {};
}

Status evaluate_text(const EvalOptions& o) {
  if (o.data.path.empty() == o.data.corpus.empty())
    return invalid_argument(o.data.path.empty() ? "on which text? Name a file, a folder, or a --corpus"
                                                : "give a text or a --corpus, not both");
  SPORKLE_ASSIGN_OR_RETURN(LoadedModel loaded, load_model(o.checkpoint, o.device, o.threads, o.quantize));
  SPORKLE_ASSIGN_OR_RETURN(const train::Corpus corpus, train::open_corpus(o.data));
  SPORKLE_ASSIGN_OR_RETURN(train::TokenFile file, train::cached_token_file(corpus, *loaded.tokenizer));
  if (o.logits) return print_logits(loaded, file);
  const int64_t context = loaded.model->shape().context;
  SPORKLE_ASSIGN_OR_RETURN(const train::Dataset dataset,
                           train::Dataset::split(std::move(file), loaded.tokenizer, context, o.last));
  const train::TokenRange range = dataset.validation();

  Terminal terminal(1);
  ProgressOptions quiet_if_json;
  quiet_if_json.quiet = o.json;
  Progress progress(&terminal, "Evaluating", static_cast<double>(dataset.window_count(range)), quiet_if_json);
  const auto started = std::chrono::steady_clock::now();
  SPORKLE_ASSIGN_OR_RETURN(const train::Evaluation result,
                           train::evaluate(*loaded.model, dataset, range, 0,
                                           std::max<int64_t>(1, kTokensAtOnce / context), [&](int64_t done, int64_t) {
                                             progress.update(static_cast<double>(done));
                                             return true;
                                           }));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  if (o.json) {
    JsonObject summary;
    summary.add("event", "summary").add("loss", result.loss).add("bits_per_byte", result.bits_per_byte);
    summary.add("nats_per_byte", result.nats_per_byte).add("tokens", result.tokens).add("bytes", result.bytes);
    summary.add("seconds", seconds).add("checkpoint", loaded.folder.string());
    std::printf("%s\n", summary.text().c_str());
    return {};
  }
  progress.finish(format_count(static_cast<double>(result.tokens)) + " tokens, " +
                  format_bytes(static_cast<double>(result.bytes)) + " of text");
  std::printf("loss           %.4f nats a token\nbits per byte  %.4f\n", result.loss, result.bits_per_byte);
  return {};
}

}  // namespace

void register_eval(Cli& cli) {
  auto options = std::make_shared<EvalOptions>();
  Command command = cli.command("eval", "Measure how well a model predicts a text");
  command
      .option("checkpoint", &options->checkpoint,
              "A checkpoint (Sporkle's or a Hugging Face GPT-2 or Llama), or a folder of them: the latest is used")
      .required()
      .value_name("CHECKPOINT");
  command.option("text", &options->data.path, "A UTF-8 file, or a folder of them").value_name("TEXT");
  command.option("--corpus", &options->data.corpus, "Instead of a text: a named one, such as kjv").value_name("NAME");
  command
      .option("--last", &options->last,
              "Only this part of the text, at its end; as validation_fraction, it is what training held back")
      .range(1e-9, 1)
      .value_name("FRACTION");
  command.flag("--logits", &options->logits, "Print the logits of the text's first tokens as JSON instead");
  command.option("--threads", &options->threads, "Threads that compute; 0: one for each core")
      .range(0, 4096)
      .value_name("N");
  command.option("--device", &options->device, "Where to compute; `sporkle devices` lists them").value_name("ID");
  command.option("--quantize", &options->quantize, "int8: linear layers compute with weights of 8 bits")
      .one_of({kNoQuantization, kInt8})
      .value_name("TYPE");
  command.flag("--json", &options->json, "Print one JSON object");
  command.computes();
  command.example("eval my-model --corpus kjv --last 0.05", "Repeats the validation of a training on the Bible.");
  command.action([options] { return evaluate_text(*options); });
}

}  // namespace sporkle::app
