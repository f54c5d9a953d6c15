#include "run/parameter_fetch.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <utility>

#include "base/format_units.h"
#include "run/protocol.h"
#include "run/run.pb.h"

namespace sporkle::run {
namespace {

constexpr size_t kProbeBytes = size_t{256} << 10;

std::string text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <size_t N>
bool copy_exactly(const std::string& from, std::array<std::byte, N>& to) {
  if (from.size() != N) return false;
  std::ranges::copy(std::as_bytes(std::span(from)), to.begin());
  return true;
}

void prepare(const ParameterOffer& offer, FetchedParameters& to) {
  to.values.resize(static_cast<size_t>(offer.manifest.size_bytes / sizeof(float)));
  to.have.resize(offer.manifest.piece_count(), false);
}

void keep(const ParameterOffer& offer, size_t piece, std::span<const std::byte> bytes, FetchedParameters& to) {
  const auto all = std::as_writable_bytes(std::span(to.values));
  std::ranges::copy(bytes, all.begin() + static_cast<std::ptrdiff_t>(piece * offer.manifest.piece_bytes));
  to.have[piece] = true;
  to.bytes += bytes.size();
}

}  // namespace

mesh::Message ParameterOffer::request() { return {proto::DonorsRequest().SerializeAsString(), {}}; }

mesh::Message ParameterOffer::encode() const {
  proto::DonorsReply reply;
  reply.set_version(version);
  reply.set_parameters_sha256(text(sha256));
  for (const mesh::RunLink& link : donors) {
    proto::Donor& donor = *reply.add_donors();
    donor.set_node(text(link.coordinator.bytes));
    donor.set_host(link.addresses.front().host);
    donor.set_port(link.addresses.front().port);
  }
  return {reply.SerializeAsString(), manifest.encode()};
}

Result<std::optional<ParameterOffer>> ParameterOffer::parse(const mesh::Message& reply, uint64_t parameter_bytes,
                                                            const std::optional<mesh::NodeId>& coordinator) {
  const auto bad = [](const std::string& what) { return corrupt_data("the coordinator's list of donors: " + what); };
  proto::DonorsReply message;
  if (!message.ParseFromString(reply.body)) return bad("it cannot be read");
  if (message.donors().empty() && reply.payload.empty()) return std::optional<ParameterOffer>();
  if (static_cast<size_t>(message.donors_size()) > kMostDonors)
    return bad("it has more than " + std::to_string(kMostDonors) + " donors");
  ParameterOffer offer;
  offer.version = message.version();
  if (!copy_exactly(message.parameters_sha256(), offer.sha256)) return bad("its SHA-256 is not of its size");
  SPORKLE_ASSIGN_OR_RETURN(offer.manifest, mesh::ContentManifest::parse(reply.payload));
  if (offer.manifest.size_bytes != parameter_bytes)
    return bad("its manifest is of " + std::to_string(offer.manifest.size_bytes) + " bytes, the parameters have " +
               std::to_string(parameter_bytes));
  if (coordinator && mesh::NodeId::of(offer.manifest.key) != *coordinator)
    return bad("its manifest is signed by another key than the coordinator's");
  for (const proto::Donor& donor : message.donors()) {
    mesh::RunLink link;
    if (!copy_exactly(donor.node(), link.coordinator.bytes)) return bad("a donor's ID is not of its size");
    if (donor.host().empty() || donor.host().size() > 255 || donor.port() == 0 || donor.port() > UINT16_MAX)
      return bad("a donor has no address");
    link.addresses.push_back({donor.host(), static_cast<uint16_t>(donor.port())});
    offer.donors.push_back(std::move(link));
  }
  if (offer.donors.size() < kLeastDonors) return std::optional<ParameterOffer>();
  return std::optional(std::move(offer));
}

mesh::Message parameter_piece_request(const Digest& sha256, const mesh::ContentManifest& manifest, size_t piece) {
  proto::ParameterPieceRequest request;
  request.set_parameters_sha256(text(sha256));
  request.set_offset(uint64_t{piece} * manifest.piece_bytes);
  request.set_size_bytes(static_cast<uint32_t>(manifest.size_of_piece(piece)));
  return {request.SerializeAsString(), {}};
}

Result<std::vector<std::byte>> ParameterSource::fetch(const mesh::ContentManifest& manifest, size_t piece) {
  std::shared_ptr<mesh::Channel> channel;
  {
    const std::lock_guard lock(mutex_);
    if (cancelled_) return Status(Code::cancelled, "the fetch is over");
    channel = channel_;
  }
  if (!channel) {
    SPORKLE_ASSIGN_OR_RETURN(channel, dial_());
    const std::lock_guard lock(mutex_);
    channel_ = channel;
    if (cancelled_) channel_->close();
  }
  SPORKLE_ASSIGN_OR_RETURN(
      mesh::Message answer,
      channel->call("parameter_piece", parameter_piece_request(sha256_, manifest, piece), timeout_));
  return std::move(answer.payload);
}

void ParameterSource::cancel() {
  const std::lock_guard lock(mutex_);
  cancelled_ = true;
  if (channel_) channel_->close();
}

Result<double> probe_coordinator(mesh::Channel& channel, const ParameterOffer& offer, std::chrono::milliseconds timeout,
                                 FetchedParameters& to) {
  prepare(offer, to);
  const auto start = std::chrono::steady_clock::now();
  for (size_t piece = 0; piece < offer.manifest.piece_count() && to.bytes < kProbeBytes; ++piece) {
    SPORKLE_ASSIGN_OR_RETURN(
        const mesh::Message answer,
        channel.call("parameter_piece", parameter_piece_request(offer.sha256, offer.manifest, piece), timeout));
    if (!offer.manifest.is_piece(piece, answer.payload))
      return corrupt_data("the coordinator sent a piece of parameters that is not what its manifest says");
    keep(offer, piece, answer.payload, to);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  return static_cast<double>(to.bytes) / std::max(seconds.count(), 1e-6);
}

Status fetch_from_donors(const ParameterOffer& offer, const std::vector<mesh::PieceSource*>& sources,
                         const std::function<bool(uint64_t)>& go_on, FetchedParameters& to) {
  prepare(offer, to);
  const std::vector<bool> have = to.have;
  auto report =
      mesh::fetch_pieces(offer.manifest, sources, have, [&](size_t piece, std::span<const std::byte> bytes) -> Status {
        keep(offer, piece, bytes, to);
        if (!go_on(to.bytes)) return Status(Code::cancelled, "the fetch was given up");
        return {};
      });
  if (!report.ok()) return report.status();
  to.report = *std::move(report);
  return {};
}

std::string describe_fetch(const ParameterOffer& offer, const FetchedParameters& fetched) {
  uint64_t sum = 0;
  for (const auto& donor : fetched.report.donors) sum += donor.bytes;
  std::string shares, failures;
  size_t gave = 0;
  for (size_t i = 0; i < fetched.report.donors.size(); ++i) {
    const auto& donor = fetched.report.donors[i];
    const std::string name = i == 0 ? "coordinator" : offer.donors[i - 1].coordinator.short_id();
    if (donor.bytes > 0) {
      const double share = 100 * static_cast<double>(donor.bytes) / static_cast<double>(sum);
      shares += (gave++ == 0 ? "" : ", ") + name + " " + std::to_string(std::lround(share)) + " %";
    }
    if (!donor.failure.ok()) failures += "; " + name + " failed: " + donor.failure.message();
  }
  return format_bytes(static_cast<double>(sum)) + " from " + std::to_string(gave) + ": " + shares + failures;
}

}  // namespace sporkle::run
