// Identity: a node's Ed25519 key pair. It signs bytes, and authenticates every connection the node makes or accepts.
//
// A copy shares the same immutable key; every call is thread-safe. The private key leaves this object only as
// identity.pem (PKCS #8, readable by its owner alone).
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <utility>

#include "base/status.h"
#include "mesh/node_id.h"

struct evp_pkey_st;

namespace sporkle::mesh {

class Identity {
 public:
  // A new key, in memory only.
  static Result<Identity> generate();

  // The key in <directory>/identity.pem, made on first use together with the directory. When several processes come
  // first at once, all of them get the same key. Errors: corrupt_data when the file holds no Ed25519 private key,
  // permission_denied when others may read it or we may not, and what the file system reports.
  static Result<Identity> load_or_create(const std::filesystem::path& directory);

  const NodeId& id() const;
  const PublicKey& public_key() const;
  Signature sign(std::span<const std::byte> message) const;

  // For tls.cc: OpenSSL's EVP_PKEY, owned by this object.
  evp_pkey_st* native_key() const;

 private:
  struct Key;
  explicit Identity(std::shared_ptr<const Key> key) : key_(std::move(key)) {}
  std::shared_ptr<const Key> key_;
};

}  // namespace sporkle::mesh
