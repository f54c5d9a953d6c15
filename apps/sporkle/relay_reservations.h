// RelayReservations: the relays through which this coordinator can be reached, and the ports that it has there. The
// ports are written down in the run's folder, so that the link of a coordinator that starts again still holds.
//
// Thread-safe.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "mesh/identity.h"
#include "mesh/relay_tenant.h"
#include "mesh/run_link.h"

namespace sporkle::app {

class RelayReservations {
 public:
  // One at each relay of `links`. A relay that does not answer is a warning as long as another one does; the error of
  // the last when none does. invalid_argument for what is no link.
  static Result<std::unique_ptr<RelayReservations>> make(const std::vector<std::string>& links,
                                                         const mesh::Identity& identity,
                                                         const std::filesystem::path& folder);
  void forward_to(const mesh::Address& server);
  std::vector<mesh::Address> addresses() const;

 private:
  std::vector<std::unique_ptr<mesh::RelayTenant>> tenants_;
};

}  // namespace sporkle::app
