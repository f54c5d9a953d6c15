#include "apps/sporkle/train_view.h"

#include <algorithm>
#include <cstdio>
#include <limits>

#include "apps/sporkle/loaded_model.h"
#include "base/format_units.h"
#include "base/json_writer.h"
#include "base/plot.h"
#include "base/seconds.h"

namespace sporkle::app {
namespace {

constexpr size_t kMostPoints = 4000;  // of a curve; more than any terminal shows
constexpr int64_t kMostStepEvents = 1000;
constexpr size_t kRecentSteps = 20;
constexpr double kPlainEvery_s = 10;
constexpr double kRedrawEvery_s = 0.2;
constexpr double kWorthTelling_s = 2;

void print_event(const JsonObject& event) {
  std::printf("%s\n", event.text().c_str());
  std::fflush(stdout);
}

// Keeps a curve short: when it is full, neighbouring points become their mean.
void append(History& history, double x, double y) {
  if (history.size() >= kMostPoints) {
    for (size_t i = 0; i < history.size() / 2; ++i)
      history[i] = {history[2 * i + 1].first, (history[2 * i].second + history[2 * i + 1].second) / 2};
    history.resize(history.size() / 2);
  }
  history.emplace_back(x, y);
}

std::string device_text(const hal::DeviceInfo& info, const train::OptimizationConfig& optimization) {
  std::string text = info.target + ", " + std::to_string(info.threads) + (info.threads == 1 ? " thread" : " threads") +
                     ", " + optimization.numerics;
  if (optimization.precision != "f32") text += ", products in " + optimization.precision;
  return text;
}

}  // namespace

TrainView::TrainView(bool json)
    : json_(json), terminal_(1), opened_s_(now_s() - process_age_s()), started_s_(now_s()) {}

double TrainView::elapsed_s() const { return now_s() - started_s_; }

double TrainView::recent_loss() const {
  if (losses_.empty()) return std::numeric_limits<double>::quiet_NaN();
  double sum = 0;
  for (const double loss : losses_) sum += loss;
  return sum / static_cast<double>(losses_.size());
}

void TrainView::preparing(std::string_view what, uint64_t done, uint64_t total) {
  if (json_) return;
  if (what != preparing_) {
    end_preparation();
    preparing_ = what;
    preparing_since_s_ = now_s();
  }
  // Work that is over in a moment goes without saying.
  if (!progress_ && now_s() - preparing_since_s_ > kWorthTelling_s / 4) {
    std::string title = preparing_;
    title[0] = static_cast<char>(title[0] - 'a' + 'A');
    progress_.emplace(&terminal_, title, static_cast<double>(total));
  }
  if (progress_) progress_->update(static_cast<double>(done));
}

void TrainView::end_preparation() {
  if (progress_) progress_->finish();
  progress_.reset();
}

void TrainView::start(train::Trainer& trainer, const std::string& corpus) {
  end_preparation();
  const train::TokenFileInfo& text = trainer.dataset().tokens().info();
  const size_t parameters = trainer.model().parameter_count();
  const hal::DeviceInfo& device = trainer.model().context().device().info();
  screen_.model = model_text(parameters);
  screen_.corpus = corpus + ", " + format_bytes(static_cast<double>(text.text_bytes));
  screen_.device = device_text(device, trainer.config().train);
  screen_.step = first_step_ = trainer.step();
  screen_.total_steps = trainer.config().total_steps();
  screen_.tokens = tokens_before_ = trainer.tokens();
  screen_.note = "preparing the first step";
  event_every_ = std::max<int64_t>(1, (screen_.total_steps - first_step_) / kMostStepEvents);
  started_s_ = drawn_s_ = ready_s_ = now_s();
  if (json_) {
    print_event(JsonObject()
                    .add("event", "start")
                    .add("parameters", parameters)
                    .add("text_bytes", text.text_bytes)
                    .add("tokens_in_text", text.count)
                    .add("vocab_size", trainer.dataset().tokenizer().vocab_size())
                    .add("step", first_step_)
                    .add("steps", screen_.total_steps)
                    .add("tokens_per_step", trainer.config().tokens_per_step())
                    .add("device", device.target)
                    .add("threads", device.threads)
                    .add("numerics", trainer.config().train.numerics)
                    .add("precision", trainer.config().train.precision)
                    .add("directory", trainer.config().output.directory));
  } else if (!terminal_.interactive()) {
    std::printf("Training a %s, on %s (%s tokens), with %s\n", screen_.model.c_str(), screen_.corpus.c_str(),
                format_count(static_cast<double>(text.count)).c_str(), screen_.device.c_str());
    if (first_step_ > 0) std::printf("going on from step %lld\n", static_cast<long long>(first_step_));
    std::fflush(stdout);
  }
  draw(true);
}

void TrainView::first_step(train::Trainer& trainer, const train::StepReport& report) {
  const train::StepMemory& memory = trainer.model().step_memory();
  const cache::CacheCounters kernels = trainer.model().context().kernels().counters();
  const double seconds = now_s() - opened_s_, begun_s = ready_s_ - opened_s_ + report.host_seconds;
  if (json_) {
    print_event(JsonObject()
                    .add("event", "first_step")
                    .add("seconds_to_ready", ready_s_ - opened_s_)
                    .add("seconds_to_first_step", begun_s)
                    .add("seconds_since_start", seconds)
                    .add("kernels_compiled", kernels.compiles)
                    .add("kernels_loaded", kernels.disk_hits)
                    .add("compile_seconds", kernels.compile_seconds)
                    .add("memory_peak_bytes", memory.peak)
                    .add("parameter_bytes", memory.parameters)
                    .add("optimizer_bytes", memory.optimizer)
                    .add("gradient_bytes", memory.gradients)
                    .add("activation_bytes", memory.activations)
                    .add("recomputes", memory.keep_every > 0));
  } else if (!terminal_.interactive()) {
    const auto bytes = [](size_t n) { return format_bytes(static_cast<double>(n)); };
    std::printf("first step begun after %.2f s, done after %.2f s: %llu kernels compiled in %.2f s, %llu loaded\n",
                begun_s, seconds, static_cast<unsigned long long>(kernels.compiles), kernels.compile_seconds,
                static_cast<unsigned long long>(kernels.disk_hits));
    std::printf("memory: %s planned at most: parameters %s, optimiser %s, gradients %s, activations %s%s\n",
                bytes(memory.peak).c_str(), bytes(memory.parameters).c_str(), bytes(memory.optimizer).c_str(),
                bytes(memory.gradients).c_str(), bytes(memory.activations).c_str(),
                memory.keep_every > 0 ? ", others computed again" : "");
    std::fflush(stdout);
  }
}

void TrainView::step(const train::StepReport& report) {
  training_s_ += report.seconds;
  losses_.push_back(report.loss);
  if (losses_.size() > kRecentSteps) losses_.pop_front();
  append(screen_.train_loss, static_cast<double>(report.step), report.loss);
  screen_.step = report.step;
  screen_.tokens = report.tokens;
  screen_.learning_rate = report.learning_rate;
  // The first step also compiles kernels: time counts from its end.
  speed_.update(static_cast<double>(report.tokens), now_s());
  screen_.tokens_per_second = speed_.per_second();
  const double tokens_each = static_cast<double>(report.tokens) / static_cast<double>(report.step);
  screen_.remaining_s = speed_.remaining_s(tokens_each * static_cast<double>(screen_.total_steps));
  if (screen_.note == "preparing the first step") screen_.note.clear();
  if (json_) {
    const bool due = report.step == first_step_ + 1 || report.step % event_every_ == 0 ||
                     report.step == screen_.total_steps || now_s() - drawn_s_ > kPlainEvery_s;
    if (!due) return;
    drawn_s_ = now_s();
    print_event(JsonObject()
                    .add("event", "step")
                    .add("step", report.step)
                    .add("tokens", report.tokens)
                    .add("loss", report.loss)
                    .add("gradient_norm", report.gradient_norm)
                    .add("learning_rate", report.learning_rate)
                    .add("tokens_per_second", screen_.tokens_per_second)
                    .add("seconds", elapsed_s()));
    return;
  }
  draw(false);
}

void TrainView::evaluating(int64_t done, int64_t total) {
  if (json_ || !terminal_.interactive()) return;
  // The evaluation in the course of training is over in a moment; the one at the end may take a while.
  const std::string before = screen_.note;
  screen_.note = "validating, " + std::to_string(done) + " of " + std::to_string(total) + " sequences";
  draw(false);
  screen_.note = before;
}

void TrainView::evaluated(int64_t step, const train::Evaluation& evaluation) {
  last_evaluation_ = evaluation;
  append(screen_.validation_loss, static_cast<double>(step), evaluation.loss);
  if (json_) {
    print_event(JsonObject()
                    .add("event", "evaluation")
                    .add("step", step)
                    .add("validation_loss", evaluation.loss)
                    .add("validation_bits_per_byte", evaluation.bits_per_byte)
                    .add("tokens", evaluation.tokens));
  } else if (terminal_.interactive()) {
    draw(true);
  } else if (step < screen_.total_steps) {
    draw(true);
  }
}

void TrainView::saved(int64_t step, const std::filesystem::path& checkpoint) {
  last_checkpoint_ = checkpoint;
  screen_.note = "saved " + checkpoint.string();
  if (json_) {
    print_event(JsonObject().add("event", "checkpoint").add("step", step).add("checkpoint", checkpoint.string()));
  } else if (terminal_.interactive()) {
    draw(true);
  } else {
    std::printf("saved %s\n", printable(checkpoint.string()).c_str());
    std::fflush(stdout);
  }
}

void TrainView::recovered(int64_t step, int64_t resumes_at, const Status& failure) {
  screen_.step = resumes_at;
  screen_.note =
      "the device was lost after step " + std::to_string(step) + "; on from step " + std::to_string(resumes_at);
  if (json_) {
    print_event(JsonObject()
                    .add("event", "device_lost")
                    .add("step", step)
                    .add("resumes_at", resumes_at)
                    .add("message", failure.message()));
  } else if (terminal_.interactive()) {
    draw(true);
  } else {
    std::printf("%s\n", screen_.note.c_str());
    std::fflush(stdout);
  }
}

void TrainView::draw(bool now) {
  if (json_) return;
  const bool live = terminal_.interactive();
  if (!now && now_s() - drawn_s_ < (live ? kRedrawEvery_s : kPlainEvery_s)) return;
  drawn_s_ = now_s();
  screen_.elapsed_s = elapsed_s();
  if (live) {
    terminal_.redraw(render_train_screen(screen_, {terminal_.width(), terminal_.height(), terminal_.colour()}));
  } else if (screen_.step > first_step_) {
    TrainScreen plain = screen_;
    plain.note.clear();
    std::printf("%s\n", render_train_line(plain).c_str());
    std::fflush(stdout);
  }
}

Status TrainView::finish(train::Trainer& trainer, const std::string& resume) {
  const bool complete = trainer.step() >= screen_.total_steps;
  const uint64_t trained_tokens = trainer.tokens() - tokens_before_;
  const double tokens_per_second = training_s_ > 0 ? static_cast<double>(trained_tokens) / training_s_ : 0;
  if (json_) {
    SPORKLE_ASSIGN_OR_RETURN(const std::string sha256, train::parameters_sha256_hex(trainer.model()));
    const double unknown = std::numeric_limits<double>::quiet_NaN();
    print_event(JsonObject()
                    .add("event", "summary")
                    .add("steps", trainer.step())
                    .add("complete", complete)
                    .add("tokens", trainer.tokens())
                    .add("seconds", elapsed_s())
                    .add("tokens_per_second", tokens_per_second)
                    .add("train_loss", recent_loss())
                    .add("validation_loss", last_evaluation_ ? last_evaluation_->loss : unknown)
                    .add("validation_bits_per_byte", last_evaluation_ ? last_evaluation_->bits_per_byte : unknown)
                    .add("checkpoint", last_checkpoint_.string())
                    .add("parameters_sha256", sha256));
    return {};
  }
  screen_.remaining_s.reset();
  screen_.note.clear();
  if (terminal_.interactive()) draw(true);
  terminal_.release();
  const std::string checkpoint = printable(last_checkpoint_.string());
  const std::string directory = printable(trainer.config().output.directory);
  if (!complete) {
    std::printf("\nStopped after step %lld of %lld; everything is in %s.\nGo on with:  %s\n",
                static_cast<long long>(trainer.step()), static_cast<long long>(screen_.total_steps), checkpoint.c_str(),
                resume.c_str());
    return {};
  }
  std::printf("\nTrained %lld steps, %s tokens, in %s (%s tokens a second).\n",
              static_cast<long long>(trainer.step() - first_step_),
              format_count(static_cast<double>(trained_tokens)).c_str(), format_duration(elapsed_s()).c_str(),
              format_count(tokens_per_second).c_str());
  if (!losses_.empty())
    std::printf("train loss       %.4f nats a token (the last %zu steps)\n", recent_loss(), losses_.size());
  if (last_evaluation_)
    std::printf("validation loss  %.4f nats a token, %.4f bits a byte\n", last_evaluation_->loss,
                last_evaluation_->bits_per_byte);
  std::printf("checkpoint       %s\n\nSee what it writes:  sporkle generate %s\n", checkpoint.c_str(),
              directory.c_str());
  return {};
}

}  // namespace sporkle::app
