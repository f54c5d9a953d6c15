#include "run/gpt.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstring>

#include "nn/schedule.h"
#include "train/trainer.h"

namespace sporkle::run {
namespace {

constexpr int32_t kMaxVocabulary = 1 << 24;  // far above any tokenizer's, and no danger to arithmetic
constexpr std::string_view kModelHeader = "sporkle-model 1\nvocab_size ";

int32_t read_token(const std::byte* at, uint32_t token_bytes) {
  uint32_t value = 0;
  for (uint32_t b = 0; b < token_bytes; ++b) value |= std::to_integer<uint32_t>(at[b]) << (8 * b);
  return static_cast<int32_t>(value);
}

class GptReplica : public Replica {
 public:
  GptReplica(const ModelDescription& description, uint64_t total_steps, std::unique_ptr<train::LanguageModel> model)
      : config_(description.config), vocab_size_(description.vocab_size), model_(std::move(model)) {
    schedule_ = train::learning_rate_schedule(config_);
    schedule_.total_steps = static_cast<double>(total_steps);
  }

  size_t parameter_count() const override { return model_->parameter_count(); }
  Status set_parameters(std::span<const float> parameters) override { return model_->set_parameters(parameters); }
  Status get_parameters(std::span<float> parameters) override { return model_->get_parameters(parameters); }
  // Unknown until the first report: calibrating would hold up joining.
  Result<double> measure_tokens_per_second() override { return 0.0; }

  Result<InnerReport> train(const InnerWork& work, const StepCallback& callback) override {
    SPORKLE_ASSIGN_OR_RETURN(const std::vector<const std::byte*> sequences, cut_sequences(work));
    const int64_t rows = config_.train.batch_size * config_.train.gradient_accumulation;
    const int64_t length = config_.model.context;
    if (sequences.size() < static_cast<size_t>(rows) * work.steps)
      return invalid_argument("the lease's shards hold " + std::to_string(sequences.size()) + " sequences, and " +
                              std::to_string(work.steps) + " steps need " +
                              std::to_string(static_cast<size_t>(rows) * work.steps));
    nn::LearningRateSchedule schedule = schedule_;
    if (work.schedule_total_steps > 0) schedule.total_steps = static_cast<double>(work.schedule_total_steps);
    std::vector<int32_t> inputs(static_cast<size_t>(rows * length)), targets(inputs.size());
    const auto start = std::chrono::steady_clock::now();
    InnerReport report;
    double loss = 0;
    for (uint32_t step = 0; step < work.steps; ++step) {
      for (int64_t row = 0; row < rows; ++row) {
        const std::byte* from =
            sequences[static_cast<size_t>(step) * static_cast<size_t>(rows) + static_cast<size_t>(row)];
        SPORKLE_RETURN_IF_ERROR(fill(from, work.token_bytes, row * length, length, inputs, targets));
      }
      const double rate = schedule.at(work.schedule_step + step * work.schedule_stride);
      SPORKLE_ASSIGN_OR_RETURN(
          const train::StepResult result,
          model_->step({inputs, targets, rows}, config_.train.gradient_accumulation, rate, {work.seed, step}));
      loss += result.loss;
      ++report.steps;
      report.tokens += inputs.size();
      if (callback && !callback({report.steps, result.loss})) break;
    }
    report.mean_loss = report.steps > 0 ? loss / report.steps : 0;
    report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return report;
  }

 private:
  // Where each sequence of context + 1 tokens starts; neighbours in a shard share a token.
  Result<std::vector<const std::byte*>> cut_sequences(const InnerWork& work) const {
    const auto length = static_cast<size_t>(config_.model.context);
    std::vector<const std::byte*> sequences;
    for (const std::span<const std::byte> shard : work.shards) {
      const size_t tokens = shard.size() / work.token_bytes;
      if (tokens < length + 1)
        return corrupt_data("a shard holds " + std::to_string(tokens) + " tokens, and a sequence needs " +
                            std::to_string(length + 1));
      for (size_t first = 0; first + length + 1 <= tokens; first += length)
        sequences.push_back(shard.data() + first * work.token_bytes);
    }
    return sequences;
  }

  Status fill(const std::byte* from, uint32_t token_bytes, int64_t first, int64_t length, std::vector<int32_t>& inputs,
              std::vector<int32_t>& targets) const {
    for (int64_t i = 0; i <= length; ++i) {
      const int32_t token = read_token(from + i * token_bytes, token_bytes);
      if (token < 0 || token >= vocab_size_)
        return corrupt_data("a shard holds token " + std::to_string(token) + ", and the vocabulary has " +
                            std::to_string(vocab_size_));
      if (i < length) inputs[static_cast<size_t>(first + i)] = token;
      if (i > 0) targets[static_cast<size_t>(first + i - 1)] = token;
    }
    return {};
  }

  train::TrainConfig config_;
  int32_t vocab_size_;
  nn::LearningRateSchedule schedule_;
  std::unique_ptr<train::LanguageModel> model_;
};

uint64_t parameter_count(const train::ModelShape& shape) {
  uint64_t total = 0;
  for (const train::TensorShape& t : train::model_parameters(shape)) {
    uint64_t count = 1;
    for (const int64_t d : t.shape) count *= static_cast<uint64_t>(d);
    total += count;
  }
  return total;
}

}  // namespace

std::string encode_model(const ModelDescription& description) {
  return std::string(kModelHeader) + std::to_string(description.vocab_size) + "\n" +
         train::config_to_toml(description.config);
}

Result<ModelDescription> decode_model(std::string_view text) {
  if (!text.starts_with(kModelHeader))
    return invalid_argument("the run's model is described in a form that this version does not know; update sporkle");
  text.remove_prefix(kModelHeader.size());
  ModelDescription description;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), description.vocab_size);
  if (error != std::errc() || description.vocab_size <= 0 || description.vocab_size > kMaxVocabulary)
    return invalid_argument("the run's model has no vocabulary size from 1 to " + std::to_string(kMaxVocabulary));
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  SPORKLE_ASSIGN_OR_RETURN(description.config, train::parse_config(text, "the run's configuration"));
  return description;
}

Result<RunConfig> run_config(const train::TrainConfig& config, const train::Dataset& dataset) {
  RunConfig run;
  RunManifest& m = run.manifest;
  const int32_t vocabulary = dataset.tokenizer().vocab_size();
  m.name = config.data.corpus.empty() ? config.data.path : config.data.corpus;
  m.model = encode_model({config, vocabulary});
  m.parameter_count = parameter_count(train::model_shape(config, vocabulary));
  m.token_bytes = vocabulary <= 256 ? 1 : vocabulary <= 65536 ? 2 : 4;
  m.tokens_per_step = static_cast<uint64_t>(config.tokens_per_step());
  m.shard_tokens = static_cast<uint64_t>(config.model.context);
  m.data_sha256 = to_hex(sha256(training_tokens(dataset, m.token_bytes)));
  m.nominal_workers = static_cast<uint32_t>(config.run.workers);
  const uint64_t together = m.tokens_per_step * m.nominal_workers;
  m.total_steps = config.train.tokens > 0 ? (static_cast<uint64_t>(config.train.tokens) + together - 1) / together
                                          : static_cast<uint64_t>(config.train.steps);
  m.seed = static_cast<uint64_t>(config.train.seed);
  run.inner_steps = config.run.inner_steps;
  run.outer = {
      {0, {static_cast<float>(config.run.outer_learning_rate), static_cast<float>(config.run.outer_momentum)}}};
  run.start_workers = static_cast<uint32_t>(config.run.workers);
  run.compression = config.run.compression;
  run.reduction = config.run.reduction;
  run.quorum = static_cast<uint32_t>(config.run.quorum);
  run.deadline_factor = config.run.deadline_factor;
  run.minimum_deadline_s = config.run.minimum_deadline_s;
  run.heartbeat_timeout_s = config.run.heartbeat_timeout_s;
  run.heartbeat_interval_s = std::min(1.0, config.run.heartbeat_timeout_s / 4);
  SPORKLE_RETURN_IF_ERROR(run.validate().with_context("[run]"));
  return run;
}

std::vector<std::byte> training_tokens(const train::Dataset& dataset, uint32_t token_bytes) {
  const train::TokenRange range = dataset.training();
  std::vector<std::byte> bytes(range.size() * token_bytes);
  std::vector<int32_t> part(size_t{1} << 16);
  for (uint64_t done = 0; done < range.size();) {
    const uint64_t count = std::min<uint64_t>(part.size(), range.size() - done);
    dataset.tokens().read(range.begin + done, std::span(part).first(count));
    for (uint64_t i = 0; i < count; ++i)
      for (uint32_t b = 0; b < token_bytes; ++b)
        bytes[(done + i) * token_bytes + b] = static_cast<std::byte>(static_cast<uint32_t>(part[i]) >> (8 * b));
    done += count;
  }
  return bytes;
}

ReplicaFactory gpt_replica_factory(train::DeviceChoice choice) {
  return [choice](const RunManifest& manifest) -> Result<std::unique_ptr<Replica>> {
    SPORKLE_ASSIGN_OR_RETURN(const ModelDescription description, decode_model(manifest.model));
    const train::ModelShape shape = train::model_shape(description.config, description.vocab_size);
    if (parameter_count(shape) != manifest.parameter_count)
      return invalid_argument("the run says that its model has " + std::to_string(manifest.parameter_count) +
                              " parameters, and its configuration makes " + std::to_string(parameter_count(shape)));
    SPORKLE_ASSIGN_OR_RETURN(std::unique_ptr<train::LanguageModel> model,
                             train::LanguageModel::create(shape, description.config.train, choice));
    return std::unique_ptr<Replica>(std::make_unique<GptReplica>(description, manifest.total_steps, std::move(model)));
  };
}

Result<std::unique_ptr<GptHost>> GptHost::create(const train::TrainConfig& config, const train::Dataset& dataset,
                                                 train::DeviceChoice choice, int64_t evaluation_windows) {
  std::unique_ptr<GptHost> host(new GptHost(config, dataset, evaluation_windows));
  SPORKLE_ASSIGN_OR_RETURN(
      host->model_,
      train::LanguageModel::create(train::model_shape(config, dataset.tokenizer().vocab_size()), config.train, choice));
  return host;
}

Result<std::vector<float>> GptHost::initial_parameters() {
  std::vector<float> values(model_->parameter_count());
  SPORKLE_RETURN_IF_ERROR(model_->get_parameters(values));
  return values;
}

Result<double> GptHost::evaluate(std::span<const float> parameters) {
  SPORKLE_RETURN_IF_ERROR(model_->set_parameters(parameters));
  SPORKLE_ASSIGN_OR_RETURN(const train::Evaluation evaluation,
                           train::evaluate(*model_, *dataset_, dataset_->validation(), evaluation_windows_,
                                           std::min<int64_t>(config_.train.batch_size, 16)));
  return evaluation.loss;
}

Result<std::string> GptHost::save_checkpoint(std::span<const float> parameters, const CheckpointInfo& info) {
  train::CheckpointContents contents;
  contents.shape = model_->shape();
  contents.tokenizer = dataset_->shared_tokenizer();
  for (const train::TensorShape& t : train::model_parameters(contents.shape)) {
    size_t count = 1;
    for (const int64_t d : t.shape) count *= static_cast<size_t>(d);
    contents.parameters.push_back({t.name, t.shape, parameters.first(count)});
    parameters = parameters.subspan(count);
  }
  SPORKLE_ASSIGN_OR_RETURN(const std::filesystem::path folder,
                           train::save_checkpoint(config_.output.directory, static_cast<int64_t>(info.step), contents,
                                                  config_.output.keep_checkpoints));
  return folder.string();
}

}  // namespace sporkle::run
