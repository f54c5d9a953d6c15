#include "train/checkpoint.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "base/file.h"
#include "train/bpe.h"
#include "train/safetensors.h"
#include "train/temporary_folder.h"

namespace sporkle::train {
namespace {

namespace fs = std::filesystem;
using testing::TemporaryFolder;

constexpr ModelShape kShape{.layers = 2, .heads = 2, .width = 8, .context = 16, .vocab_size = 256};

std::vector<OwnedTensor> make_parameters(float first, const ModelShape& shape = kShape) {
  std::vector<OwnedTensor> tensors;
  float next = first;
  for (const TensorShape& wanted : model_parameters(shape)) {
    size_t count = 1;
    for (const int64_t dimension : wanted.shape) count *= static_cast<size_t>(dimension);
    OwnedTensor tensor{wanted.name, wanted.shape, std::vector<float>(count)};
    for (float& value : tensor.values) value = next += 0.125f;
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

CheckpointContents contents_of(const std::vector<OwnedTensor>& parameters) {
  return {.shape = kShape, .parameters = views(parameters), .tokenizer = byte_tokenizer()};
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// A checkpoint of Sporkle's with its digest file gone, as if from elsewhere; `change` rewrites its tensors.
fs::path foreign_checkpoint(const TemporaryFolder& folder,
                            const std::function<void(std::vector<StoredTensor>&)>& change) {
  static std::vector<OwnedTensor> parameters;
  parameters = make_parameters(0.5f);
  const fs::path path = folder.path() / "foreign";
  EXPECT_TRUE(write_checkpoint(path, contents_of(parameters)).ok());
  fs::remove(path / "sporkle.json");
  std::vector<StoredTensor> tensors;
  for (const OwnedTensor& tensor : parameters)
    tensors.push_back({tensor.name, StoredType::f32, tensor.shape, std::as_bytes(std::span(tensor.values))});
  change(tensors);
  EXPECT_TRUE(write_safetensors(path / "model.safetensors", tensors, {}).ok());
  return path;
}

TEST(CheckpointTest, ParametersAreThoseOfHuggingFace) {
  const auto list = model_parameters({.layers = 12, .heads = 12, .width = 768, .context = 1024, .vocab_size = 50257});
  EXPECT_EQ(list.size(), 2u + 12 * 12 + 2);
  uint64_t count = 0;
  for (const TensorShape& tensor : list) {
    uint64_t size = 1;
    for (const int64_t dimension : tensor.shape) size *= static_cast<uint64_t>(dimension);
    count += size;
  }
  EXPECT_EQ(count, 124439808u);  // GPT-2 small
}

TEST(CheckpointTest, SavedAndLoadedAreEqual) {
  const TemporaryFolder folder;
  const auto parameters = make_parameters(0.5f);
  auto contents = contents_of(parameters);
  std::swap(contents.parameters[0], contents.parameters[5]);  // any order
  const std::vector<float> moment = {0.1f, -0.2f, 1e-30f};
  TrainingState state;
  state.step = 500;
  state.tokens = 1 << 20;
  state.seed = -3;
  state.values = {{"best_loss", 0.1 + 0.2}, {"tiny", 4.9e-324}};
  state.config_toml = "[data]\ncorpus = \"kjv\"\n";
  state.tensors = {{"second_moment/wte.weight", {3}, moment}, {"first_moment/wte.weight", {1, 3}, moment}};
  contents.state = state;
  const auto saved = save_checkpoint(folder.path() / "out", 500, contents, 3);
  ASSERT_TRUE(saved.ok()) << saved.status().to_string();
  EXPECT_EQ(saved->filename(), "checkpoint-00000500");
  EXPECT_EQ(names_in(*saved), (std::vector<std::string>{"config.json", "model.safetensors", "sporkle.json",
                                                        "state.json", "training_state.safetensors"}));

  const auto loaded = load_checkpoint(folder.path() / "out");
  ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
  EXPECT_EQ(loaded->folder.filename(), "checkpoint-00000500");
  EXPECT_EQ(loaded->shape, kShape);
  ASSERT_EQ(loaded->parameters.size(), parameters.size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    EXPECT_EQ(loaded->parameters[i].name, parameters[i].name);
    EXPECT_EQ(loaded->parameters[i].shape, parameters[i].shape);
    EXPECT_EQ(loaded->parameters[i].values, parameters[i].values);
  }
  EXPECT_EQ(loaded->parameters_sha256, parameters_sha256(views(parameters)));

  const auto restored = load_training_state(*saved);
  ASSERT_TRUE(restored.ok()) << restored.status().to_string();
  EXPECT_EQ(restored->step, 500);
  EXPECT_EQ(restored->tokens, 1 << 20);
  EXPECT_EQ(restored->seed, -3);
  EXPECT_EQ(restored->values, state.values);
  EXPECT_EQ(restored->config_toml, state.config_toml);
  ASSERT_EQ(restored->tensors.size(), 2u);
  EXPECT_EQ(restored->tensors[0].name, "first_moment/wte.weight");
  EXPECT_EQ(restored->tensors[0].values, moment);

  const auto tokenizer = load_checkpoint_tokenizer(*saved);
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_EQ((*tokenizer)->kind(), "bytes");
}

TEST(CheckpointTest, ABpeTokenizerTravelsAlong) {
  const TemporaryFolder folder;
  const auto parameters = make_parameters(0.5f);
  auto contents = contents_of(parameters);
  contents.shape.vocab_size = 256;
  contents.tokenizer = *make_bpe_tokenizer(*BpeTrainer().train(257));
  EXPECT_NE(write_checkpoint(folder.path() / "c", contents).message().find("257 tokens for a model of 256"),
            std::string::npos);

  ModelShape shape = kShape;
  shape.vocab_size = 264;
  const auto larger = make_parameters(0.5f, shape);
  contents.shape = shape;
  contents.parameters = views(larger);
  ASSERT_TRUE(write_checkpoint(folder.path() / "c", contents).ok());
  const auto tokenizer = load_checkpoint_tokenizer(folder.path() / "c");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().to_string();
  EXPECT_EQ((*tokenizer)->digest(), contents.tokenizer->digest());
  EXPECT_NE(read_file(folder.path() / "c" / "config.json")->find("\"eos_token_id\": 256"), std::string::npos);
  fs::remove(folder.path() / "c" / "tokenizer.json");
  EXPECT_EQ(load_checkpoint_tokenizer(folder.path() / "c").status().code(), Code::not_found);
}

TEST(CheckpointTest, ContentsAreCheckedBeforeWriting) {
  const TemporaryFolder folder;
  const auto parameters = make_parameters(0.5f);
  const auto error_of = [&](const std::function<void(CheckpointContents&)>& change) {
    CheckpointContents contents = contents_of(parameters);
    change(contents);
    const Status status = write_checkpoint(folder.path() / "c", contents);
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_FALSE(fs::exists(folder.path() / "c"));
    return status.message();
  };
  EXPECT_EQ(error_of([](auto& c) { c.parameters.pop_back(); }), "a checkpoint without the parameter ln_f.bias");
  EXPECT_EQ(error_of([](auto& c) {
              c.parameters[0].shape = {8, 256};
            }),
            "parameter wte.weight has shape [8, 256], not [256, 8]");
  EXPECT_NE(error_of([](auto& c) {
              c.parameters.push_back({"extra", {0}, {}});
            }).find("29 parameters where this GPT-2 has 28"),
            std::string::npos);
  EXPECT_EQ(error_of([](auto& c) { c.tokenizer = nullptr; }), "a checkpoint without a tokenizer");
  EXPECT_NE(error_of([](auto& c) { c.parameters[0].values = c.parameters[0].values.first(3); }).find("wte.weight"),
            std::string::npos);
  EXPECT_NE(error_of([](auto& c) {
              c.state = TrainingState{.values = {{"loss", std::numeric_limits<double>::quiet_NaN()}}};
            }).find("loss is not finite"),
            std::string::npos);
}

TEST(CheckpointTest, TheNewestAreKept) {
  const TemporaryFolder folder;
  const auto parameters = make_parameters(0.5f);
  for (const int64_t step : {100, 200, 900, 300, 400})
    ASSERT_TRUE(save_checkpoint(folder.path(), step, contents_of(parameters), 2).ok());
  // 900 is of another run; of this one the newest two are left.
  EXPECT_EQ(names_in(folder.path()),
            (std::vector<std::string>{"checkpoint-00000300", "checkpoint-00000400", "checkpoint-00000900", "latest"}));
  EXPECT_EQ(find_checkpoint(folder.path())->filename(), "checkpoint-00000400");
  EXPECT_FALSE(save_checkpoint(folder.path(), 500, contents_of(parameters), 0).ok());
  EXPECT_FALSE(save_checkpoint(folder.path(), -1, contents_of(parameters), 1).ok());
}

TEST(CheckpointTest, SavingAStepAgainReplacesIt) {
  const TemporaryFolder folder;
  const auto first = make_parameters(0.5f);
  const auto second = make_parameters(2.5f);
  auto contents = contents_of(first);
  contents.state = TrainingState{.step = 7};
  ASSERT_TRUE(save_checkpoint(folder.path(), 7, contents, 2).ok());
  ASSERT_TRUE(save_checkpoint(folder.path(), 7, contents_of(second), 2).ok());
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"checkpoint-00000007", "latest"}));
  EXPECT_EQ(load_checkpoint(folder.path())->parameters_sha256, parameters_sha256(views(second)));
  EXPECT_EQ(load_training_state(folder.path()).status().code(), Code::not_found);  // nothing of the old one is left
}

TEST(CheckpointTest, AFolderOfOtherThingsIsNotReplaced) {
  const TemporaryFolder folder;
  folder.file("mine/thesis.txt", "years of work");
  const auto parameters = make_parameters(0.5f);
  const Status status = write_checkpoint(folder.path() / "mine/", contents_of(parameters));
  EXPECT_EQ(status.code(), Code::already_exists);
  EXPECT_NE(status.message().find("thesis.txt"), std::string::npos);
  EXPECT_EQ(names_in(folder.path() / "mine"), (std::vector<std::string>{"thesis.txt"}));
}

TEST(CheckpointTest, WithoutLatestTheNewestWholeOneIsFound) {
  const TemporaryFolder folder;
  const auto parameters = make_parameters(0.5f);
  ASSERT_TRUE(save_checkpoint(folder.path(), 1, contents_of(parameters), 5).ok());
  ASSERT_TRUE(save_checkpoint(folder.path(), 2, contents_of(parameters), 5).ok());
  fs::remove_all(folder.path() / "checkpoint-00000002");
  EXPECT_EQ(find_checkpoint(folder.path())->filename(), "checkpoint-00000001");
  fs::remove(folder.path() / "latest");
  EXPECT_EQ(find_checkpoint(folder.path())->filename(), "checkpoint-00000001");
  EXPECT_EQ(find_checkpoint(folder.path() / "none").status().code(), Code::not_found);
  fs::create_directory(folder.path() / "empty");
  EXPECT_NE(find_checkpoint(folder.path() / "empty").status().message().find("neither model.safetensors"),
            std::string::npos);
}

TEST(CheckpointTest, ForeignCheckpointsLoad) {
  const TemporaryFolder folder;
  const std::vector<float> mask(16 * 16, 1.0f);
  const auto path = foreign_checkpoint(folder, [&](std::vector<StoredTensor>& tensors) {
    tensors.push_back({"lm_head.weight", StoredType::f32, tensors[0].shape, tensors[0].bytes});
    for (StoredTensor& tensor : tensors)
      if (tensor.name != "lm_head.weight") tensor.name = "transformer." + tensor.name;
    tensors.push_back({"transformer.h.0.attn.bias", StoredType::f32, {1, 1, 16, 16}, std::as_bytes(std::span(mask))});
    tensors.push_back(
        {"transformer.h.1.attn.masked_bias", StoredType::f32, {}, std::as_bytes(std::span(mask)).first(4)});
  });
  const auto loaded = load_checkpoint(path);
  ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
  EXPECT_EQ(loaded->parameters_sha256, parameters_sha256(views(make_parameters(0.5f))));
  EXPECT_EQ(describe_checkpoint(path)->tokenizer, "none");
}

TEST(CheckpointTest, HalfPrecisionLoads) {
  const TemporaryFolder folder;
  std::vector<uint16_t> halves(8, 0x3C00);
  const auto path = foreign_checkpoint(folder, [&](std::vector<StoredTensor>& tensors) {
    for (StoredTensor& tensor : tensors)
      if (tensor.name == "ln_f.weight")
        tensor = {"ln_f.weight", StoredType::f16, {8}, std::as_bytes(std::span(halves))};
  });
  const auto loaded = load_checkpoint(path);
  ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
  EXPECT_EQ(loaded->parameters[loaded->parameters.size() - 2].values, std::vector<float>(8, 1.0f));
}

TEST(CheckpointTest, WrongTensorsAreNamed) {
  const TemporaryFolder folder;
  const auto error_of = [&](const std::function<void(std::vector<StoredTensor>&)>& change, Code code) {
    const auto loaded = load_checkpoint(foreign_checkpoint(folder, change));
    EXPECT_EQ(loaded.status().code(), code) << loaded.status().to_string();
    EXPECT_NE(loaded.status().message().find("model.safetensors: "), std::string::npos) << loaded.status().to_string();
    return loaded.status().message();
  };
  const auto has = [](const std::string& message, const std::string& what) {
    EXPECT_NE(message.find(what), std::string::npos) << message;
  };
  using Tensors = std::vector<StoredTensor>;
  has(error_of([](Tensors& t) { t.erase(t.begin() + 3); }, Code::corrupt_data), "tensor h.0.ln_1.bias is missing");
  has(error_of(
          [](Tensors& t) {
            t[0].shape = {8, 256};
          },
          Code::corrupt_data),
      "tensor wte.weight has shape [8, 256], config.json asks for [256, 8]");
  has(error_of([](Tensors& t) { t[2].name = "h.7.ln_1.weight"; }, Code::corrupt_data),
      "tensor h.0.ln_1.weight is missing");
  has(error_of(
          [](Tensors& t) {
            t.push_back({"h.2.ln_1.weight", StoredType::f32, {8}, t[2].bytes});
          },
          Code::corrupt_data),
      "tensor h.2.ln_1.weight does not belong to a GPT-2 of 2 layers");
  has(error_of(
          [](Tensors& t) {
            t.push_back({"transformer.wte.weight", StoredType::f32, t[0].shape, t[0].bytes});
          },
          Code::corrupt_data),
      "with and without the prefix");
  has(error_of(
          [](Tensors& t) {
            t.push_back({"lm_head.weight", StoredType::f32, {16, 8}, t[1].bytes});
          },
          Code::unsupported),
      "lm_head.weight differs from wte.weight");
  has(error_of([](Tensors& t) { t[2].type = StoredType::i32; }, Code::unsupported), "\"h.0.ln_1.weight\" holds I32");
}

TEST(CheckpointTest, OtherArchitecturesAreNamed) {
  const TemporaryFolder folder;
  const auto path = foreign_checkpoint(folder, [](auto&) {});
  const std::string config = *read_file(path / "config.json");
  const auto error_of = [&](const std::string& from, const std::string& to) {
    std::string changed = config;
    const size_t at = changed.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    changed.replace(at, from.size(), to);
    EXPECT_TRUE(write_file_atomically(path / "config.json", changed).ok());
    const Status status = load_checkpoint(path).status();
    return std::string(code_name(status.code())) + " " + status.message().substr(status.message().find("config.json"));
  };
  EXPECT_EQ(error_of("\"gpt2\"", "\"bert\""),
            "unsupported config.json: a model of type \"bert\"; Sporkle loads \"gpt2\" and \"llama\"");
  EXPECT_NE(error_of("gelu_new", "relu").find("unsupported config.json: activation_function is \"relu\""),
            std::string::npos);
  EXPECT_NE(error_of("\"n_inner\": null", "\"n_inner\": 9").find("unsupported config.json: n_inner is 9"),
            std::string::npos);
  EXPECT_NE(error_of("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false").find("unsupported"),
            std::string::npos);
  EXPECT_NE(error_of("\"n_layer\": 2", "\"n_layer\": \"2\"").find("corrupt_data config.json: n_layer is not a whole"),
            std::string::npos);
  EXPECT_NE(error_of("\"n_layer\": 2", "\"n_layer\": 1000000").find("n_layer is not a whole number from 1 to 4096"),
            std::string::npos);
  EXPECT_NE(error_of("\"n_embd\": 8", "\"n_embd\": -8").find("n_embd"), std::string::npos);
  EXPECT_NE(error_of("\"n_head\": 2", "\"n_head\": 3").find("n_head 3 does not divide n_embd 8"), std::string::npos);
  EXPECT_NE(error_of("\"n_layer\": 2,", "").find("n_layer is missing"), std::string::npos);
  EXPECT_NE(error_of("1e-05", "-1").find("layer_norm_epsilon"), std::string::npos);
  EXPECT_NE(error_of("1e-05", "\"x\"").find("layer_norm_epsilon is not a number"), std::string::npos);
  EXPECT_NE(error_of("{", "").find("not JSON"), std::string::npos);
  EXPECT_TRUE(write_file_atomically(path / "config.json", "[]").ok());
  EXPECT_NE(load_checkpoint(path).status().message().find("not a JSON object"), std::string::npos);
  fs::remove(path / "config.json");
  EXPECT_EQ(load_checkpoint(path).status().code(), Code::not_found);
}

constexpr ModelShape kLlama{.layers = 2,
                            .heads = 4,
                            .width = 16,
                            .context = 32,
                            .vocab_size = 256,
                            .layer_norm_epsilon = 1e-6,
                            .architecture = Architecture::llama,
                            .kv_heads = 2,
                            .inner_width = 24,
                            .rotary_base = 500000.0,
                            .tied = false};

TEST(CheckpointTest, LlamasAreSavedAndLoaded) {
  for (const bool tied : {false, true}) {
    const TemporaryFolder folder;
    ModelShape shape = kLlama;
    shape.tied = tied;
    const std::vector<OwnedTensor> parameters = make_parameters(1, shape);
    EXPECT_EQ(parameters.front().name, "model.embed_tokens.weight");
    EXPECT_EQ(parameters.back().name, tied ? "model.norm.weight" : "lm_head.weight");
    const fs::path path = folder.path() / "llama";
    CheckpointContents contents{.shape = shape, .parameters = views(parameters), .tokenizer = byte_tokenizer()};
    ASSERT_TRUE(write_checkpoint(path, contents).ok());
    const auto loaded = load_checkpoint(path);
    ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
    EXPECT_EQ(loaded->shape, shape);
    ASSERT_EQ(loaded->parameters.size(), parameters.size());
    for (size_t i = 0; i < parameters.size(); ++i) {
      EXPECT_EQ(loaded->parameters[i].name, parameters[i].name);
      EXPECT_EQ(loaded->parameters[i].shape, parameters[i].shape);
      EXPECT_EQ(loaded->parameters[i].values, parameters[i].values);
    }
  }
}

TEST(CheckpointTest, OtherLlamasAreNamed) {
  const TemporaryFolder folder;
  const std::vector<OwnedTensor> parameters = make_parameters(1, kLlama);
  const fs::path path = folder.path() / "llama";
  ASSERT_TRUE(
      write_checkpoint(path, {.shape = kLlama, .parameters = views(parameters), .tokenizer = byte_tokenizer()}).ok());
  const std::string config = *read_file(path / "config.json");
  const auto error_of = [&](const std::string& from, const std::string& to) {
    std::string changed = config;
    const size_t at = changed.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    changed.replace(at, from.size(), to);
    EXPECT_TRUE(write_file_atomically(path / "config.json", changed).ok());
    return load_checkpoint(path).status().to_string();
  };
  const auto expect = [&](const std::string& from, const std::string& to, const std::string& message) {
    EXPECT_NE(error_of(from, to).find(message), std::string::npos)
        << from << " -> " << to << ": " << error_of(from, to);
  };
  expect("\"silu\"", "\"gelu\"", "hidden_act is \"gelu\"");
  expect("\"attention_bias\": false", "\"attention_bias\": true", "attention_bias is true");
  expect("\"rope_scaling\": null", "\"rope_scaling\": {\"type\": \"linear\"}", "rope_scaling is");
  expect("\"rope_scaling\": null", "\"rope_parameters\": {\"rope_type\": \"yarn\"}", "rope_parameters");
  expect("\"rope_scaling\": null", "\"rope_parameters\": {}", "no rope_theta");
  expect("\"rope_scaling\": null", "\"rope_parameters\": 3", "rope_parameters");
  expect("\"rope_scaling\": null", "\"head_dim\": 8", "head_dim is 8");
  expect("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3", "num_key_value_heads 3");
  expect("\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4", "k_proj.weight has shape");
  expect("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true", "lm_head.weight differs from");
  expect("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": 1", "neither true nor false");
  expect("\"intermediate_size\": 24", "\"intermediate_size\": 0", "intermediate_size is not a whole");
}

TEST(CheckpointTest, OtherFilesOfParametersAreNamed) {
  const TemporaryFolder folder;
  const auto path = foreign_checkpoint(folder, [](auto&) {});
  fs::rename(path / "model.safetensors", path / "pytorch_model.bin");
  const Status status = load_checkpoint(path).status();
  EXPECT_EQ(status.code(), Code::unsupported);
  EXPECT_NE(status.message().find("pytorch_model.bin"), std::string::npos);
  fs::remove(path / "pytorch_model.bin");
  EXPECT_EQ(load_checkpoint(path).status().code(), Code::not_found);
}

TEST(CheckpointTest, DamageIsFound) {
  const TemporaryFolder folder;
  const auto parameters = make_parameters(0.5f);
  auto contents = contents_of(parameters);
  contents.state = TrainingState{.step = 7, .tensors = {{"m", {8}, parameters[2].values}}};
  const fs::path path = folder.path() / "c";
  const auto damage = [&](const char* file, const std::function<void(std::string&)>& change) {
    EXPECT_TRUE(write_checkpoint(path, contents).ok());
    std::string content = *read_file(path / file);
    change(content);
    EXPECT_TRUE(write_file_atomically(path / file, content).ok());
  };
  const auto has = [](const Status& status, Code code, const std::string& what) {
    EXPECT_EQ(status.code(), code) << status.to_string();
    EXPECT_NE(status.message().find(what), std::string::npos) << status.to_string();
  };
  damage("model.safetensors", [](std::string& s) { s.resize(s.size() - 5); });
  has(load_checkpoint(path).status(), Code::corrupt_data, "cut short");
  damage("model.safetensors", [](std::string& s) { s[s.size() - 5] ^= 1; });
  has(load_checkpoint(path).status(), Code::corrupt_data, "sporkle.json says");
  damage("sporkle.json", [](std::string& s) { s = "{}"; });
  has(load_checkpoint(path).status(), Code::corrupt_data, "version is missing");
  damage("sporkle.json", [](std::string& s) { s.replace(s.find("\"version\": 1"), 12, "\"version\": 2"); });
  has(load_checkpoint(path).status(), Code::unsupported, "written by a newer Sporkle");
  damage("sporkle.json", [](std::string& s) { s.replace(s.find("\"bytes\""), 7, "\"runes\""); });
  has(load_checkpoint_tokenizer(path).status(), Code::unsupported, "\"runes\" is unknown");
  damage("training_state.safetensors", [](std::string& s) { s[s.size() - 5] ^= 1; });
  has(load_training_state(path).status(), Code::corrupt_data, "training_state.safetensors: its tensors");
  EXPECT_TRUE(load_checkpoint(path).ok());
  damage("state.json", [](std::string& s) { s.resize(s.size() / 2); });
  has(load_training_state(path).status(), Code::corrupt_data, "state.json: not JSON");
  damage("state.json", [](std::string& s) { s.replace(s.find("\"step\": 7"), 9, "\"step\": -7"); });
  has(load_training_state(path).status(), Code::corrupt_data, "step is not a whole number");
  damage("state.json", [](std::string& s) { s.replace(s.find("\"values\": {}"), 12, "\"values\": {\"a\": []}"); });
  has(load_training_state(path).status(), Code::corrupt_data, "values.a is not a number");
}

TEST(CheckpointTest, TheDigestKnowsNamesShapesAndBits) {
  const std::vector<float> a = {1.0f, 2.0f, 3.0f, 4.0f};
  const std::vector<float> zero = {0.0f}, minus_zero = {-0.0f};
  const auto digest = [](std::vector<NamedTensor> tensors) { return to_hex(parameters_sha256(tensors)); };
  EXPECT_EQ(digest({{"a", {4}, a}, {"b", {1}, zero}}), digest({{"b", {1}, zero}, {"a", {4}, a}}));
  EXPECT_NE(digest({{"a", {4}, a}}), digest({{"b", {4}, a}}));
  EXPECT_NE(digest({{"a", {4}, a}}), digest({{"a", {2, 2}, a}}));
  EXPECT_NE(digest({{"a", {1}, zero}}), digest({{"a", {1}, minus_zero}}));
  const std::vector<float> nan1 = {std::bit_cast<float>(0x7FC00000u)}, nan2 = {std::bit_cast<float>(0xFFC12345u)};
  EXPECT_EQ(digest({{"a", {1}, nan1}}), digest({{"a", {1}, nan2}}));
  // The digest is compared between machines and versions: name, dimensions and values as the header says.
  std::string bytes("a\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\0\0\0", 22);
  EXPECT_EQ(digest({{"a", {1}, zero}}), to_hex(sha256(bytes)));
}

TEST(CheckpointTest, TheSummaryCountsTensors) {
  const TemporaryFolder folder;
  const auto parameters = make_parameters(0.5f);
  ASSERT_TRUE(save_checkpoint(folder.path(), 42, contents_of(parameters), 1).ok());
  const auto summary = describe_checkpoint(folder.path());
  ASSERT_TRUE(summary.ok()) << summary.status().to_string();
  EXPECT_EQ(summary->step, 42);
  EXPECT_EQ(summary->tokenizer, "bytes");
  EXPECT_EQ(summary->tensors.size(), parameters.size());
  uint64_t count = 0;
  for (const OwnedTensor& tensor : parameters) count += tensor.values.size();
  EXPECT_EQ(summary->parameter_count, count);
  EXPECT_EQ(summary->size_bytes, 4 * count);
  EXPECT_EQ(summary->tensors[0].name, "h.0.attn.c_attn.bias");
  EXPECT_EQ(summary->tensors[0].type, "F32");
  EXPECT_EQ(summary->parameters_sha256, parameters_sha256(views(parameters)));
}

// Every write past the limit fails, whatever the disk holds.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limited{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limited);
  }
  ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

TEST(CheckpointTest, AFailedWriteLeavesTheOneBefore) {
  const TemporaryFolder folder;
  const auto first = make_parameters(0.5f);
  const auto second = make_parameters(2.5f);
  ASSERT_TRUE(save_checkpoint(folder.path(), 1, contents_of(first), 1).ok());
  const uintmax_t model_size = fs::file_size(folder.path() / "checkpoint-00000001" / "model.safetensors");
  for (const uintmax_t limit : {uintmax_t{0}, uintmax_t{100}, model_size / 2, model_size - 1}) {
    for (const int64_t step : {1, 2}) {
      Status status;
      {
        const FileSizeLimit full(limit);
        status = save_checkpoint(folder.path(), step, contents_of(second), 1).status();
      }
      EXPECT_FALSE(status.ok()) << limit;
      EXPECT_NE(status.message().find("checkpoint-0000000" + std::to_string(step)), std::string::npos)
          << status.message();
      const auto loaded = load_checkpoint(folder.path());
      ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
      EXPECT_EQ(loaded->parameters_sha256, parameters_sha256(views(first)));
      EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"checkpoint-00000001", "latest"}));
    }
  }
  ASSERT_TRUE(save_checkpoint(folder.path(), 2, contents_of(second), 1).ok());
  EXPECT_EQ(load_checkpoint(folder.path())->parameters_sha256, parameters_sha256(views(second)));
}

TEST(CheckpointTest, AFullDiskLeavesTheOneBefore) {
  const TemporaryFolder folder;
  const fs::path disk = folder.path() / "disk";
  fs::create_directory(disk);
  if (::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=40k") != 0) GTEST_SKIP() << "mounting a small tmpfs needs root";
  const auto first = make_parameters(0.5f);
  const auto second = make_parameters(2.5f);
  ASSERT_TRUE(save_checkpoint(disk, 1, contents_of(first), 2).ok());
  const Status status = save_checkpoint(disk, 2, contents_of(second), 2).status();
  const auto loaded = load_checkpoint(disk);
  const auto names = names_in(disk);
  const bool unmounted = ::umount(disk.c_str()) == 0;
  EXPECT_EQ(status.code(), Code::no_space) << status.to_string();
  ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
  EXPECT_EQ(loaded->parameters_sha256, parameters_sha256(views(first)));
  EXPECT_EQ(names, (std::vector<std::string>{"checkpoint-00000001", "latest"}));
  EXPECT_TRUE(unmounted);
}

TEST(CheckpointTest, AKillAtAnyMomentLeavesAReadableOne) {
  const TemporaryFolder folder;
  const auto first = make_parameters(0.5f);
  const auto second = make_parameters(2.5f);
  const std::vector<Digest> digests = {parameters_sha256(views(first)), parameters_sha256(views(second))};
  ASSERT_TRUE(save_checkpoint(folder.path(), 0, contents_of(first), 1).ok());
  for (int round = 0; round < 12; ++round) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (int64_t step = 1;; ++step) {
        // The same few steps over and over: new folders, replaced ones and removed ones.
        if (!save_checkpoint(folder.path(), step % 3, contents_of(step % 2 ? second : first), 1).ok()) ::_exit(1);
      }
    }
    std::this_thread::sleep_for(std::chrono::microseconds(3000 + 1700 * round));
    ::kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child failed to save";
    const auto loaded = load_checkpoint(folder.path());
    ASSERT_TRUE(loaded.ok()) << loaded.status().to_string();
    EXPECT_TRUE(loaded->parameters_sha256 == digests[0] || loaded->parameters_sha256 == digests[1]);
  }
  // What the killed ones left half-written goes away with the next checkpoint.
  ASSERT_TRUE(save_checkpoint(folder.path(), 9, contents_of(first), 1).ok());
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"checkpoint-00000009", "latest"}));
}

}  // namespace
}  // namespace sporkle::train
