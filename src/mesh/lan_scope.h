// Where to look for runs, or to announce one. A plain value.
#pragma once

namespace sporkle::mesh {

enum class LanScope {
  network,   // every interface that can multicast, loopback included
  loopback,  // this machine alone
};

}  // namespace sporkle::mesh
