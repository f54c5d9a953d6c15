#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "apps/sporkle/cli.h"
#include "apps/sporkle/commands.h"
#include "base/format_units.h"
#include "base/json_writer.h"
#include "base/terminal.h"
#include "train/checkpoint.h"

namespace sporkle::app {
namespace {

std::string dimensions(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t extent : shape) text += (text.empty() ? "" : " x ") + std::to_string(extent);
  return text;
}

void print_json(const train::CheckpointSummary& c) {
  JsonArray tensors;
  for (const train::CheckpointRow& row : c.tensors) {
    JsonArray shape;
    for (const int64_t extent : row.shape) shape.add(extent);
    JsonObject tensor;
    tensor.add("name", row.name).add("type", row.type).add("shape", shape).add("size_bytes", row.size_bytes);
    tensors.add(tensor);
  }
  JsonObject model;
  model.add("architecture", train::architecture_name(c.shape.architecture));
  model.add("layers", c.shape.layers).add("heads", c.shape.heads).add("width", c.shape.width);
  model.add("context", c.shape.context).add("vocab_size", c.shape.vocab_size);
  JsonObject object;
  object.add("checkpoint", c.folder.string()).add("model", model).add("tokenizer", c.tokenizer);
  if (c.step) object.add("step", *c.step);
  object.add("parameters", c.parameter_count).add("size_bytes", c.size_bytes);
  object.add("parameters_sha256", to_hex(c.parameters_sha256)).add("tensors", tensors);
  std::printf("%s\n", object.text().c_str());
}

void print_text(const train::CheckpointSummary& c) {
  const auto row = [](const char* label, const std::string& value) {
    std::printf("%-11s  %s\n", label, value.c_str());
  };
  row("checkpoint", printable(c.folder.string()));
  const bool shares = c.shape.architecture == train::Architecture::llama && c.shape.kv_heads != c.shape.heads;
  row("model", std::string(train::architecture_name(c.shape.architecture)) + ": " + std::to_string(c.shape.layers) +
                   " layers, " + std::to_string(c.shape.heads) + " heads" +
                   (shares ? " over " + std::to_string(c.shape.kv_heads) + " of keys and values" : "") + ", width " +
                   std::to_string(c.shape.width) + ", context " + std::to_string(c.shape.context) + ", vocabulary " +
                   std::to_string(c.shape.vocab_size));
  row("tokenizer", c.tokenizer);
  if (c.step) row("step", std::to_string(*c.step));
  row("parameters",
      format_count(static_cast<double>(c.parameter_count)) + ", " + format_bytes(static_cast<double>(c.size_bytes)));
  row("SHA-256", to_hex(c.parameters_sha256));
  int name_width = 0, shape_width = 0;
  for (const train::CheckpointRow& tensor : c.tensors) {
    name_width = std::max(name_width, display_width(printable(tensor.name)));
    shape_width = std::max(shape_width, display_width(dimensions(tensor.shape)));
  }
  std::printf("\n");
  for (const train::CheckpointRow& tensor : c.tensors)
    std::printf("%s  %-4s  %s  %s\n", pad_right(printable(tensor.name), name_width).c_str(), tensor.type.c_str(),
                pad_right(dimensions(tensor.shape), shape_width).c_str(),
                pad_left(format_bytes(static_cast<double>(tensor.size_bytes)), 7).c_str());
}

}  // namespace

void register_checkpoint(Cli& cli) {
  struct ShowOptions {
    std::string path;
    bool json = false;
  };
  auto options = std::make_shared<ShowOptions>();
  Command show = cli.command("checkpoint", "Look into checkpoints")
                     .command("show", "Show a checkpoint's model, tensors, sizes and the SHA-256 of all parameters");
  show.option("path", &options->path, "A checkpoint, or a folder of them: the latest is shown")
      .required()
      .value_name("PATH");
  show.flag("--json", &options->json, "Print one JSON object");
  show.example("checkpoint show my-model", "Equal SHA-256, equal models.");
  show.action([options]() -> Status {
    SPORKLE_ASSIGN_OR_RETURN(const train::CheckpointSummary summary, train::describe_checkpoint(options->path));
    if (options->json)
      print_json(summary);
    else
      print_text(summary);
    return {};
  });
}

}  // namespace sporkle::app
