#include "mesh/node_id.h"

#include <openssl/evp.h>

#include <memory>

#include "base/sha256.h"
#include "mesh/base32.h"

namespace sporkle::mesh {

NodeId NodeId::of(const PublicKey& key) { return NodeId{sha256(std::span<const std::byte>(key))}; }

Result<NodeId> NodeId::parse(std::string_view text) {
  NodeId id;
  if (!from_base32(text, id.bytes))
    return invalid_argument("not a node ID: expected 52 characters of base32 (a-z, 2-7), got " +
                            std::to_string(text.size()) + " characters");
  return id;
}

std::string NodeId::to_string() const { return to_base32(bytes); }

std::string NodeId::short_id() const { return to_string().substr(0, 8); }

bool verify_signature(const PublicKey& key, std::span<const std::byte> message, const Signature& signature) {
  const auto raw = [](const auto& bytes) { return reinterpret_cast<const unsigned char*>(bytes.data()); };
  const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> pkey(
      EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, raw(key), key.size()), EVP_PKEY_free);
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  return pkey && context && EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, pkey.get()) == 1 &&
         EVP_DigestVerify(context.get(), raw(signature), signature.size(), raw(message), message.size()) == 1;
}

}  // namespace sporkle::mesh
