// For tests: an identity whose key is known, so that signatures can be compared byte by byte.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "base/temporary_folder.h"
#include "mesh/identity.h"

namespace sporkle::mesh {

// The key of test 1 of RFC 8032: seed 9d61b19d..., public key d75a9801...
inline Identity known_identity() {
  auto folder = TemporaryFolder::create("sporkle-test");
  EXPECT_TRUE(folder.ok());
  const auto path = folder->path() / "identity.pem";
  std::ofstream(path) << "-----BEGIN PRIVATE KEY-----\n"
                         "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n"
                         "-----END PRIVATE KEY-----\n";
  EXPECT_EQ(::chmod(path.c_str(), 0600), 0);
  auto identity = Identity::load_or_create(folder->path());
  EXPECT_TRUE(identity.ok()) << identity.status().to_string();
  return *identity;
}

}  // namespace sporkle::mesh
