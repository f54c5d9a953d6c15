#include "apps/sporkle/relay_reservations.h"

#include <charconv>
#include <utility>

#include "apps/sporkle/version.h"
#include "base/file.h"
#include "base/log.h"

namespace sporkle::app {
namespace {

// What stands in the file; 0, which is any port, when there is none or it is damaged.
uint16_t port_in(const std::filesystem::path& file) {
  const auto text = read_file(file);
  uint16_t port = 0;
  if (text.ok()) std::from_chars(text->data(), text->data() + text->size(), port);
  return port;
}

}  // namespace

Result<std::unique_ptr<RelayReservations>> RelayReservations::make(const std::vector<std::string>& links,
                                                                   const mesh::Identity& identity,
                                                                   const std::filesystem::path& folder) {
  auto made = std::make_unique<RelayReservations>();
  Status failure;
  for (const std::string& text : links) {
    SPORKLE_ASSIGN_OR_RETURN(const mesh::RunLink relay, mesh::RunLink::parse(text));
    const std::filesystem::path port_file = folder / ("relay-" + relay.coordinator.short_id());
    mesh::RelayTenantOptions options;
    options.client.software = "sporkle " + std::string(version());
    options.client.role = "coordinator";
    options.wanted_port = port_in(port_file);
    auto tenant = mesh::RelayTenant::start(relay, identity, options);
    if (!tenant.ok()) {
      failure = tenant.status();
      log(LogLevel::warning, "relay", failure.message());
      continue;
    }
    SPORKLE_RETURN_IF_ERROR(write_file_atomically(port_file, std::to_string((*tenant)->address().port)));
    made->tenants_.push_back(*std::move(tenant));
  }
  if (made->tenants_.empty() && !failure.ok()) return failure;
  return made;
}

void RelayReservations::forward_to(const mesh::Address& server) {
  for (const auto& tenant : tenants_) tenant->forward_to(server);
}

std::vector<mesh::Address> RelayReservations::addresses() const {
  std::vector<mesh::Address> result;
  for (const auto& tenant : tenants_) result.push_back(tenant->address());
  return result;
}

}  // namespace sporkle::app
