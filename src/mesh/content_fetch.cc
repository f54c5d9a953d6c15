#include "mesh/content_fetch.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <optional>
#include <thread>
#include <utility>

#include "mesh/content.pb.h"

namespace sporkle::mesh {
namespace {

using std::chrono::steady_clock;

constexpr size_t donors_for_a_share = 3;

class Fetch {
 public:
  using Store = std::function<Status(size_t, std::span<const std::byte>)>;

  Fetch(const ContentManifest& manifest, std::span<PieceSource* const> sources, const std::vector<bool>& have,
        const Store& store, const FetchOptions& options)
      : manifest_(manifest),
        sources_(sources),
        store_(store),
        flights_(manifest.piece_count(), 0),
        stored_(have),
        alive_(sources.size()),
        taken_(sources.size(), 0),
        busy_since_(sources.size()),
        patience_(options.patience) {
    stored_.resize(manifest.piece_count(), false);
    for (size_t i = 0; i < stored_.size(); ++i)
      if (!stored_[i]) waiting_.push_back(i);
    left_ = waiting_.size();
    share_ = std::max<size_t>(
        1, static_cast<size_t>(std::floor(options.largest_share * static_cast<double>(waiting_.size()))));
    report_.donors.resize(sources.size());
  }

  Result<FetchReport> run() {
    {
      std::vector<std::jthread> threads;
      for (size_t i = 0; i < sources_.size(); ++i) threads.emplace_back([this, i] { serve(i); });
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return over(); });
      lock.unlock();
      for (PieceSource* source : sources_) source->cancel();
    }
    if (!failure_.ok()) return failure_;
    if (left_ > 0) return unavailable("no donor of '" + manifest_.name + "' is left: " + last_loss_.message());
    return report_;
  }

 private:
  bool over() const { return left_ == 0 || alive_ == 0 || !failure_.ok(); }

  // With the mutex held: whether the others may be left to carry their share. A donor that is silent must not hold up
  // those that have carried theirs.
  bool capped(size_t donor) const {
    if (taken_[donor] < share_) return false;
    size_t responsive = 0;
    bool room = false;
    for (size_t i = 0; i < taken_.size(); ++i) {
      if (!report_.donors[i].failure.ok() || (busy_since_[i] && steady_clock::now() - *busy_since_[i] > patience_))
        continue;
      ++responsive;
      room |= taken_[i] < share_;
    }
    return room && responsive >= donors_for_a_share;
  }

  // With the mutex held: a piece for this donor, or none as yet.
  std::optional<size_t> next(size_t donor) {
    if (capped(donor)) return std::nullopt;
    if (!waiting_.empty()) {
      const size_t piece = waiting_.front();
      waiting_.pop_front();
      return piece;
    }
    // At the end, what a slow donor is still at is asked of a second one.
    for (size_t piece = 0; piece < stored_.size(); ++piece)
      if (!stored_[piece] && flights_[piece] == 1) return piece;
    return std::nullopt;
  }

  void serve(size_t donor) {
    std::unique_lock lock(mutex_);
    for (;;) {
      std::optional<size_t> piece;
      while (!over() && !(piece = next(donor))) changed_.wait_for(lock, patience_ / 4);
      if (over()) return;
      busy_since_[donor] = steady_clock::now();
      ++flights_[*piece];
      ++taken_[donor];
      lock.unlock();
      Result<std::vector<std::byte>> bytes = sources_[donor]->fetch(manifest_, *piece);
      const bool good = bytes.ok() && manifest_.is_piece(*piece, *bytes);
      lock.lock();
      --flights_[*piece];
      busy_since_[donor].reset();
      if (over()) return;
      if (!good) {
        Status why = bytes.ok() ? corrupt_data("piece " + std::to_string(*piece) + " is not what the manifest says")
                                : bytes.status();
        report_.pieces_wasted += bytes.ok();
        lose(donor, *piece, std::move(why));
        return;
      }
      take(donor, *piece, *bytes);
      changed_.notify_all();
    }
  }

  void take(size_t donor, size_t piece, std::span<const std::byte> bytes) {
    if (stored_[piece]) {
      --taken_[donor];
      ++report_.pieces_wasted;
      return;
    }
    stored_[piece] = true;
    report_.donors[donor].bytes += bytes.size();
    --left_;
    failure_ = store_(piece, bytes);
  }

  void lose(size_t donor, size_t piece, Status why) {
    --alive_;
    last_loss_ = why;
    report_.donors[donor].failure = std::move(why);
    if (!stored_[piece] && flights_[piece] == 0) waiting_.push_front(piece);
    changed_.notify_all();
  }

  const ContentManifest& manifest_;
  const std::span<PieceSource* const> sources_;
  const Store& store_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<size_t> waiting_;
  std::vector<int> flights_;  // of each piece, how many donors are at it
  std::vector<bool> stored_;
  size_t left_ = 0, alive_, share_ = 0;
  std::vector<size_t> taken_;  // pieces of each donor, those under way included
  std::vector<std::optional<steady_clock::time_point>> busy_since_;
  const std::chrono::milliseconds patience_;
  Status failure_, last_loss_ = not_found("there was none");
  FetchReport report_;
};

}  // namespace

Result<std::vector<std::byte>> ChannelSource::fetch(const ContentManifest& manifest, size_t piece) {
  wire::PieceRequest request;
  request.set_root(std::string(reinterpret_cast<const char*>(manifest.root.data()), manifest.root.size()));
  request.set_piece(piece);
  SPORKLE_ASSIGN_OR_RETURN(Message answer, channel_->call("piece", {request.SerializeAsString(), {}}, timeout_));
  return std::move(answer.payload);
}

Result<Message> answer_piece_request(const Message& request, const ContentManifest& manifest,
                                     std::span<const std::byte> content) {
  wire::PieceRequest message;
  if (!message.ParseFromString(request.body) || message.root().size() != manifest.root.size())
    return invalid_argument("the request for a piece cannot be read");
  if (!std::ranges::equal(std::as_bytes(std::span(message.root())), manifest.root))
    return not_found("this content is not here");
  if (content.size() != manifest.size_bytes || message.piece() >= manifest.piece_count())
    return not_found("piece " + std::to_string(message.piece()) + " is not here");
  const auto bytes = content.subspan(message.piece() * manifest.piece_bytes,
                                     manifest.size_of_piece(static_cast<size_t>(message.piece())));
  return Message{"", {bytes.begin(), bytes.end()}};
}

Result<FetchReport> fetch_pieces(const ContentManifest& manifest, std::span<PieceSource* const> sources,
                                 const std::vector<bool>& have,
                                 const std::function<Status(size_t, std::span<const std::byte>)>& store,
                                 const FetchOptions& options) {
  return Fetch(manifest, sources, have, store, options).run();
}

}  // namespace sporkle::mesh
