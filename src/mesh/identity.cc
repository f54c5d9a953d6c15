#include "mesh/identity.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <string>
#include <system_error>

#include "base/file.h"

namespace sporkle::mesh {
namespace fs = std::filesystem;

struct Identity::Key {
  explicit Key(EVP_PKEY* key) : pkey(key) {}
  ~Key() { EVP_PKEY_free(pkey); }
  Key(const Key&) = delete;
  Key& operator=(const Key&) = delete;

  EVP_PKEY* pkey;
  PublicKey public_key{};
  NodeId id;
};

namespace {

using BioPointer = std::unique_ptr<BIO, decltype(&BIO_free)>;

// False when `key` is not Ed25519.
bool read_public_key(EVP_PKEY* key, PublicKey& out) {
  size_t size = out.size();
  return EVP_PKEY_get_id(key) == EVP_PKEY_ED25519 &&
         EVP_PKEY_get_raw_public_key(key, reinterpret_cast<unsigned char*>(out.data()), &size) == 1 &&
         size == out.size();
}

// An encrypted PEM must fail, not ask on the terminal for a password.
int refuse_password(char*, int, int, void*) { return -1; }

Result<std::string> to_pem(EVP_PKEY* key) {
  const BioPointer bio(BIO_new(BIO_s_mem()), BIO_free);
  if (!bio || PEM_write_bio_PKCS8PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1)
    return internal_error("OpenSSL cannot write a private key");
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return std::string(data, static_cast<size_t>(size));
}

// Puts `content` at `path` unless something is there already. 0600 from the start: no moment at which others may read.
Status create_private_file(const fs::path& path, const std::string& content) {
  static std::atomic<unsigned> counter{0};
  fs::path temporary = path;
  temporary += ".tmp." + std::to_string(::getpid()) + "." + std::to_string(counter++);
  ::unlink(temporary.c_str());  // left by a process of the same number that died here
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) return errno_status(errno, "cannot create " + temporary.string());
  Status status;
  const ssize_t written = ::write(fd, content.data(), content.size());
  if (written < 0) {
    status = errno_status(errno, "cannot write " + path.string());
  } else if (static_cast<size_t>(written) != content.size()) {
    status = errno_status(ENOSPC, "cannot write " + path.string());
  } else if (::fsync(fd) != 0) {
    status = errno_status(errno, "cannot sync " + path.string());
  }
  ::close(fd);
  // link, unlike rename, refuses to replace: of two processes that came first at once, one wins.
  if (status.ok() && ::link(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    const bool no_links = error == EPERM || error == EOPNOTSUPP || error == ENOSYS;
    if (no_links && ::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) == 0) return {};
    if (error != EEXIST && !(no_links && errno == EEXIST))
      status = errno_status(error, "cannot create " + path.string());
  }
  ::unlink(temporary.c_str());
  return status;
}

}  // namespace

Result<Identity> Identity::generate() {
  EVP_PKEY* pkey = EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519");
  if (!pkey) return internal_error("OpenSSL cannot make an Ed25519 key");
  auto key = std::make_shared<Key>(pkey);
  if (!read_public_key(pkey, key->public_key)) return internal_error("OpenSSL made a key that is not Ed25519");
  key->id = NodeId::of(key->public_key);
  return Identity(std::move(key));
}

Result<Identity> Identity::load_or_create(const fs::path& directory) {
  const fs::path path = directory / "identity.pem";
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    if (errno != ENOENT) return errno_status(errno, "cannot examine " + path.string());
    std::error_code error;
    fs::create_directories(directory, error);
    if (error) return errno_status(error.value(), "cannot make the folder " + directory.string());
    SPORKLE_ASSIGN_OR_RETURN(const Identity fresh, generate());
    SPORKLE_ASSIGN_OR_RETURN(const std::string pem, to_pem(fresh.native_key()));
    SPORKLE_RETURN_IF_ERROR(create_private_file(path, pem));
    if (::stat(path.c_str(), &info) != 0) return errno_status(errno, "cannot examine " + path.string());
  }
  if (!S_ISREG(info.st_mode)) return corrupt_data(path.string() + " is not a file; a node's key was expected there");
  if (info.st_mode & 077)
    return Status(
        Code::permission_denied,
        path.string() + " holds this node's private key, but others may read it; run: chmod 600 " + path.string());
  SPORKLE_ASSIGN_OR_RETURN(const std::string pem, read_file(path));
  const BioPointer bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())), BIO_free);
  EVP_PKEY* pkey = bio ? PEM_read_bio_PrivateKey(bio.get(), nullptr, refuse_password, nullptr) : nullptr;
  const std::string remedy = "; restore it, or remove it to become a new node with a new key";
  if (!pkey) return corrupt_data(path.string() + " holds no readable private key" + remedy);
  auto key = std::make_shared<Key>(pkey);
  if (!read_public_key(pkey, key->public_key))
    return corrupt_data(path.string() + " holds a private key of another kind than Ed25519" + remedy);
  key->id = NodeId::of(key->public_key);
  return Identity(std::move(key));
}

const NodeId& Identity::id() const { return key_->id; }
const PublicKey& Identity::public_key() const { return key_->public_key; }
evp_pkey_st* Identity::native_key() const { return key_->pkey; }

Signature Identity::sign(std::span<const std::byte> message) const {
  Signature signature{};
  size_t size = signature.size();
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  // With a valid key these fail only when memory is out; then the signature is zeros, which no key verifies.
  if (context && EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key_->pkey) == 1)
    EVP_DigestSign(context.get(), reinterpret_cast<unsigned char*>(signature.data()), &size,
                   reinterpret_cast<const unsigned char*>(message.data()), message.size());
  return signature;
}

}  // namespace sporkle::mesh
