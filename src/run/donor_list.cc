#include "run/donor_list.h"

#include <algorithm>
#include <span>
#include <utility>

#include "base/log.h"
#include "mesh/address_order.h"
#include "mesh/client.h"
#include "run/parameter_fetch.h"
#include "run/protocol.h"
#include "run/run.pb.h"

namespace sporkle::run {
namespace {

using SteadyClock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kCheckTimeout(1500), kCheckInterval(250);
constexpr std::chrono::seconds kCheckAgain(60);

}  // namespace

DonorList::DonorList(const mesh::Identity& identity, std::function<Now()> now)
    : identity_(identity), now_(std::move(now)) {
  answers_ = std::thread([this] { answer_loop(); });
  checks_ = std::thread([this] { check_loop(); });
}

DonorList::~DonorList() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  answers_.join();
  checks_.join();
}

void DonorList::seen(const mesh::NodeId& node, const std::string& address) {
  const auto parsed = mesh::Address::parse(address);
  if (!parsed.ok()) return;
  const std::lock_guard lock(mutex_);
  hosts_[node] = parsed->host;
}

void DonorList::gone(const mesh::NodeId& node) {
  const std::lock_guard lock(mutex_);
  hosts_.erase(node);
  reached_.erase(node);
}

void DonorList::answer_donors(const mesh::NodeId& asks, mesh::Responder respond) {
  {
    const std::lock_guard lock(mutex_);
    questions_.push_back({asks, std::move(respond)});
  }
  changed_.notify_all();
}

std::optional<mesh::Address> DonorList::address_of(const Coordinator::Donor& donor) const {
  const auto host = hosts_.find(donor.node);
  if (host == hosts_.end()) return std::nullopt;
  return mesh::Address{host->second, donor.port};
}

mesh::Message DonorList::offer_to(const mesh::NodeId& asks, const Now& now) {
  ParameterOffer offer;
  {
    const std::lock_guard lock(mutex_);
    // Another machine's loopback leads nowhere.
    const auto own = hosts_.find(asks);
    const bool here = own != hosts_.end() && mesh::is_loopback(own->second);
    for (const Coordinator::Donor& donor : now.donors) {
      const auto address = address_of(donor);
      const auto reached = reached_.find(donor.node);
      if (!donor.current || donor.node == asks || !address || reached == reached_.end()) continue;
      if (!reached->second.answers || reached->second.address != *address) continue;
      if (mesh::is_loopback(address->host) && !here) continue;
      offer.donors.push_back({donor.node, {*address}, {}});
    }
  }
  if (offer.donors.size() < kLeastDonors) return {proto::DonorsReply().SerializeAsString(), {}};
  // Each in turn, when there are more than one needs.
  std::ranges::rotate(offer.donors, offer.donors.begin() + static_cast<std::ptrdiff_t>(turn_++ % offer.donors.size()));
  if (offer.donors.size() > kMostDonors) offer.donors.resize(kMostDonors);
  if (!manifest_ || manifest_sha256_ != now.sha256) {
    auto made = mesh::ContentManifest::of_bytes(std::as_bytes(std::span(*now.parameters)),
                                                "parameters-" + std::to_string(now.version),
                                                mesh::ContentKind::checkpoint, identity_);
    if (!made.ok()) {
      log(LogLevel::warning, "run", "the parameters cannot be offered: " + made.status().message());
      return {proto::DonorsReply().SerializeAsString(), {}};
    }
    manifest_ = *std::move(made);
    manifest_sha256_ = now.sha256;
  }
  held_.hold(now.sha256, now.parameters);
  offer.version = now.version;
  offer.sha256 = now.sha256;
  offer.manifest = *manifest_;
  return offer.encode();
}

void DonorList::answer_loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !questions_.empty(); });
    if (stopping_) return;
    Question question = std::move(questions_.front());
    questions_.pop_front();
    lock.unlock();
    if (!question.respond.abandoned()) question.respond(offer_to(question.asks, now_()));
    lock.lock();
  }
}

void DonorList::check_loop() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    lock.unlock();
    const Now now = now_();
    held_.forget_old();
    lock.lock();
    bool checked = false;
    for (const Coordinator::Donor& donor : now.donors) {
      if (stopping_) return;
      const auto address = address_of(donor);
      if (!address) continue;
      const auto reached = reached_.find(donor.node);
      if (reached != reached_.end() && reached->second.address == *address &&
          SteadyClock::now() - reached->second.checked < kCheckAgain)
        continue;
      lock.unlock();
      mesh::ClientOptions options;
      options.connect_timeout = kCheckTimeout;
      options.role = "coordinator";
      const auto client = mesh::Client::connect({donor.node, {*address}, {}}, identity_, options);
      if (!client.ok())
        log(LogLevel::debug, "run", "worker " + donor.node.short_id() + " is no donor: " + client.status().message());
      lock.lock();
      if (hosts_.contains(donor.node)) reached_[donor.node] = {*address, client.ok(), SteadyClock::now()};
      checked = true;
    }
    if (!checked) changed_.wait_for(lock, kCheckInterval, [this] { return stopping_; });
  }
}

}  // namespace sporkle::run
