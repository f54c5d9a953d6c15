#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "apps/sporkle/loaded_model.h"
#include "base/file.h"
#include "base/format_units.h"
#include "base/json_writer.h"
#include "base/progress.h"
#include "base/terminal.h"
#include "train/bpe.h"
#include "train/corpus.h"

namespace sporkle::app {
namespace {

constexpr const char* kTokenizerHelp = "bytes, a tokenizer.json, or a checkpoint";

struct LearnOptions {
  train::DataConfig data;
  int64_t vocab_size = 4096;
  std::string output = "tokenizer.json";
};

Status learn(const LearnOptions& o) {
  if (o.data.path.empty() == o.data.corpus.empty())
    return invalid_argument(o.data.path.empty() ? "from which text? Name a file, a folder, or a --corpus"
                                                : "give a text or a --corpus, not both");
  std::error_code error;
  if (std::filesystem::exists(o.output, error))
    return {Code::already_exists, o.output + " is there already; remove it, or choose another --output"};
  Terminal terminal(1);
  SPORKLE_ASSIGN_OR_RETURN(const train::Corpus corpus, train::open_corpus(o.data));
  Progress counting(&terminal, "Counting words", static_cast<double>(corpus.size_bytes));
  train::BpeTrainer trainer;
  double counted = 0;
  SPORKLE_RETURN_IF_ERROR(train::for_each_document(corpus, [&](std::string_view text) -> Status {
    trainer.add(text);
    counting.update(counted += static_cast<double>(text.size()));
    return {};
  }));
  Progress learning(&terminal, "Learning merges", static_cast<double>(o.vocab_size));
  SPORKLE_ASSIGN_OR_RETURN(train::BpeModel model,
                           trainer.train(o.vocab_size, [&](std::string_view, uint64_t done, uint64_t) {
                             learning.update(static_cast<double>(done));
                           }));
  SPORKLE_ASSIGN_OR_RETURN(const train::TokenizerPtr tokenizer, train::make_bpe_tokenizer(std::move(model)));
  SPORKLE_RETURN_IF_ERROR(write_file_atomically(o.output, tokenizer->to_json()));
  learning.finish(std::to_string(tokenizer->vocab_size()) + " tokens from " +
                  format_bytes(static_cast<double>(corpus.size_bytes)) + " of text, written to " + printable(o.output));
  return {};
}

struct EncodeOptions {
  std::string tokenizer;
  std::string text;
  bool json = false;
};

std::string standard_input() { return {std::istreambuf_iterator<char>(std::cin), {}}; }

Status encode(const EncodeOptions& o, bool text_given) {
  SPORKLE_ASSIGN_OR_RETURN(const train::TokenizerPtr tokenizer, load_any_tokenizer(o.tokenizer));
  const std::string text = text_given ? o.text : standard_input();
  JsonArray ids, pieces;
  std::string line;
  for (const int32_t id : tokenizer->encode(text)) {
    ids.add(id);
    pieces.add(tokenizer->token_bytes(id));
    line += (line.empty() ? "" : " ") + std::to_string(id);
  }
  if (o.json) line = JsonObject().add("ids", ids).add("pieces", pieces).text();
  std::printf("%s\n", line.c_str());
  return {};
}

struct DecodeOptions {
  std::string tokenizer;
  std::vector<std::string> ids;
};

Status decode(const DecodeOptions& o) {
  SPORKLE_ASSIGN_OR_RETURN(const train::TokenizerPtr tokenizer, load_any_tokenizer(o.tokenizer));
  std::vector<std::string> words = o.ids;
  if (words.empty()) words.assign(std::istream_iterator<std::string>(std::cin), {});
  std::vector<int32_t> ids;
  for (const std::string& word : words) {
    const bool number = !word.empty() && word.size() <= 9 && word.find_first_not_of("0123456789") == std::string::npos;
    if (!number) return invalid_argument("\"" + printable(word) + "\" is no token ID; they are whole numbers from 0");
    ids.push_back(std::stoi(word));
  }
  SPORKLE_ASSIGN_OR_RETURN(const std::string text, tokenizer->decode(ids));
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (Terminal(1).interactive()) std::printf("\n");
  return {};
}

}  // namespace

void register_tokenizer(Cli& cli) {
  Command tokenizer = cli.command("tokenizer", "Learn a tokenizer from text, and use one");

  auto learn_options = std::make_shared<LearnOptions>();
  Command train =
      tokenizer.command("train", "Learn a byte-level BPE from a text; writes Hugging Face's tokenizer.json");
  train.option("text", &learn_options->data.path, "A UTF-8 file, or a folder of them").value_name("TEXT");
  train.option("--corpus", &learn_options->data.corpus, "Instead of a text: a named one, such as kjv")
      .value_name("NAME");
  train.option("--vocab-size", &learn_options->vocab_size, "Tokens to learn, the 256 bytes and <|endoftext|> included")
      .range(257, 1 << 20)
      .value_name("N");
  train.option("-o,--output", &learn_options->output, "The file to write").value_name("FILE");
  train.example("tokenizer train --corpus kjv --vocab-size 2048",
                "Writes tokenizer.json; data.tokenizer takes its path.");
  train.action([learn_options] { return learn(*learn_options); });

  auto encode_options = std::make_shared<EncodeOptions>();
  Command to_ids = tokenizer.command("encode", "Print the token IDs of a text");
  to_ids.option("tokenizer", &encode_options->tokenizer, kTokenizerHelp).required().value_name("TOKENIZER");
  to_ids.option("text", &encode_options->text, "The text itself; without it, standard input").value_name("TEXT");
  to_ids.flag("--json", &encode_options->json, "Print one JSON object, with what each ID stands for");
  to_ids.example("tokenizer encode tokenizer.json \"In the beginning\"", "Prints IDs with spaces between them.");
  to_ids.action([encode_options, to_ids] { return encode(*encode_options, to_ids.given("text")); });

  auto decode_options = std::make_shared<DecodeOptions>();
  Command to_text = tokenizer.command("decode", "Print the text of token IDs");
  to_text.option("tokenizer", &decode_options->tokenizer, kTokenizerHelp).required().value_name("TOKENIZER");
  to_text.option("ids", &decode_options->ids, "The IDs; without them, standard input").value_name("ID");
  to_text.example("tokenizer decode tokenizer.json 402 276", "Prints what these tokens stand for.");
  to_text.action([decode_options] { return decode(*decode_options); });
}

}  // namespace sporkle::app
