#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "apps/sporkle/loaded_model.h"
#include "base/file.h"
#include "base/format_units.h"
#include "base/json_writer.h"
#include "base/terminal.h"
#include "train/generate.h"
#include "train/unicode.h"

namespace sporkle::app {
namespace {

struct GenerateOptions {
  std::string checkpoint;
  std::string prompt, prompt_file;
  int64_t tokens = 400;
  int64_t top_k = 0;
  int64_t seed = 1;
  double temperature = 0.8;
  double top_p = 0.95;
  int64_t threads = 0;
  std::string device, quantize = kNoQuantization;
  bool json = false;
};

// Text from a model may hold anything; in a terminal only line ends and tabs keep their effect.
std::string for_terminal(std::string_view text) {
  std::string shown;
  while (!text.empty()) {
    const size_t plain = std::min(text.find_first_of("\n\t"), text.size());
    shown += printable(text.substr(0, plain));
    text.remove_prefix(plain);
    if (text.empty()) break;
    shown += text.front();
    text.remove_prefix(1);
  }
  return shown;
}

// Prints a continuation as it comes.
class Output {
 public:
  explicit Output(bool json) : json_(json), terminal_(1) {}

  void prompt(const std::string& text) {
    if (json_) return;
    const std::string shown = terminal_.interactive() ? for_terminal(text) : text;
    put(paint(shown, Colour::bold, terminal_.colour() && !shown.empty()));
  }
  void bytes(std::string_view token) { characters(stream_.push(token)); }
  void finish() { characters(stream_.finish()); }
  const std::string& text() const { return text_; }

 private:
  void characters(const std::string& text) {
    if (text.empty()) return;
    text_ += text;
    if (json_)
      put(JsonObject().add("event", "text").add("text", text).text() + "\n");
    else
      put(terminal_.interactive() ? for_terminal(text) : text);
  }
  static void put(const std::string& text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  }

  const bool json_;
  Terminal terminal_;
  train::Utf8Stream stream_;
  std::string text_;
};

Status generate_text(GenerateOptions o, bool prompt_given) {
  train::SamplingOptions sampling;
  sampling.temperature = o.temperature;
  sampling.top_k = o.top_k;
  sampling.top_p = o.top_p;
  sampling.seed = static_cast<uint64_t>(o.seed);
  SPORKLE_RETURN_IF_ERROR(train::check_sampling(sampling));
  if (prompt_given && !o.prompt_file.empty()) return invalid_argument("give --prompt or --prompt-file, not both");
  if (!o.prompt_file.empty()) {
    SPORKLE_ASSIGN_OR_RETURN(o.prompt, read_file(o.prompt_file));
  }
  SPORKLE_ASSIGN_OR_RETURN(const LoadedModel loaded, load_model(o.checkpoint, o.device, o.threads, o.quantize));
  // Weights of 8 bits have a layout of their own.
  if (o.quantize == kNoQuantization)
    SPORKLE_RETURN_IF_ERROR(loaded.model->decoder().lay_out_for_generation().with_context(o.checkpoint));
  const train::Tokenizer& tokenizer = *loaded.tokenizer;
  const std::vector<int32_t> prompt = tokenizer.encode(o.prompt);
  // Without a prompt the model begins a document; for a model of bytes that is what follows a line's end.
  const int32_t first = tokenizer.end_of_text().value_or(tokenizer.encode("\n").front());

  Output output(o.json);
  output.prompt(o.prompt);
  const auto started = std::chrono::steady_clock::now();
  int64_t produced = 0;
  const Status status = train::generate(*loaded.model, prompt, first, o.tokens, sampling, [&](int32_t token) {
    if (token == tokenizer.end_of_text()) return false;
    ++produced;
    output.bytes(tokenizer.token_bytes(token));
    return true;
  });
  output.finish();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  const double speed = seconds > 0 ? static_cast<double>(produced) / seconds : 0;
  if (!o.json) std::printf("\n");
  SPORKLE_RETURN_IF_ERROR(status);
  if (o.json) {
    JsonObject summary;
    summary.add("event", "summary").add("prompt", o.prompt).add("text", output.text()).add("tokens", produced);
    summary.add("seconds", seconds).add("tokens_per_second", speed).add("checkpoint", loaded.folder.string());
    std::printf("%s\n", summary.text().c_str());
  } else if (const Terminal messages(2); messages.interactive()) {
    const std::string last = std::to_string(produced) + " tokens in " + format_duration(seconds) + ", " +
                             format_count(speed) + " a second; another --seed writes another text";
    std::fprintf(stderr, "\n%s\n", paint(last, Colour::dim, messages.colour()).c_str());
  }
  return {};
}

}  // namespace

void register_generate(Cli& cli) {
  auto options = std::make_shared<GenerateOptions>();
  Command command = cli.command("generate", "Write text with a trained model");
  command
      .option("checkpoint", &options->checkpoint,
              "A checkpoint (Sporkle's or a Hugging Face GPT-2 or Llama), or a folder of them: the latest is used")
      .required()
      .value_name("CHECKPOINT");
  command.option("-p,--prompt", &options->prompt, "What the text begins with").value_name("TEXT");
  command.option("--prompt-file", &options->prompt_file, "The same from a file").value_name("FILE");
  command.option("-n,--tokens", &options->tokens, "How many tokens to write at most").range(1, 1e12).value_name("N");
  command
      .option("--temperature", &options->temperature, "Above 1 more surprising, below 1 less; 0: the likeliest token")
      .value_name("T");
  command.option("--top-k", &options->top_k, "Choose among the K likeliest tokens; 0: among all").value_name("K");
  command.option("--top-p", &options->top_p, "Choose among the likeliest tokens that share this probability")
      .value_name("P");
  command.option("--seed", &options->seed, "Equal seeds write equal texts").value_name("N");
  command.option("--threads", &options->threads, "Threads that compute; 0: one for each core")
      .range(0, 4096)
      .value_name("N");
  command.option("--device", &options->device, "Where to compute; `sporkle devices` lists them").value_name("ID");
  command.option("--quantize", &options->quantize, "int8: linear layers compute with weights of 8 bits")
      .one_of({kNoQuantization, kInt8})
      .value_name("TYPE");
  command.flag("--json", &options->json, "Print one event a line, the last with \"event\":\"summary\"");
  command.computes();
  command.example("generate my-model --prompt \"In the beginning\"",
                  "Continues the prompt with the latest checkpoint.");
  command.action([options, command] { return generate_text(*options, command.given("--prompt")); });
}

}  // namespace sporkle::app
