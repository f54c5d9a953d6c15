#include "mesh/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <sys/socket.h>

#include <cerrno>
#include <exception>
#include <new>
#include <system_error>
#include <utility>

namespace sporkle::mesh {
namespace {

// How long a ticket is good for.
constexpr long session_lifetime_s = 24 * 3600;
constexpr unsigned char session_context[] = {'s', 'p', 'o', 'r', 'k', 'l', 'e'};

// Of records that are gathered for one system call.
constexpr size_t batch_bytes = size_t{256} << 10;

using CertificatePointer = std::unique_ptr<X509, decltype(&X509_free)>;

std::string openssl_error() {
  const unsigned long code = ERR_peek_last_error();
  const char* reason = code ? ERR_reason_error_string(code) : nullptr;
  return reason ? reason : "unknown reason";
}

CertificatePointer self_signed_certificate(EVP_PKEY* key) {
  CertificatePointer certificate(X509_new(), X509_free);
  if (!certificate) return certificate;
  X509* x = certificate.get();
  X509_NAME* name = X509_get_subject_name(x);
  const auto* common_name = reinterpret_cast<const unsigned char*>("sporkle");
  // Valid from 1950 to 9999: a node with a wrong clock still joins.
  const bool made = X509_set_version(x, X509_VERSION_3) == 1 && ASN1_INTEGER_set(X509_get_serialNumber(x), 1) == 1 &&
                    ASN1_TIME_set_string(X509_getm_notBefore(x), "19500101000000Z") == 1 &&
                    ASN1_TIME_set_string(X509_getm_notAfter(x), "99991231235959Z") == 1 &&
                    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, common_name, -1, -1, 0) == 1 &&
                    X509_set_issuer_name(x, name) == 1 && X509_set_pubkey(x, key) == 1 &&
                    X509_sign(x, key, nullptr) > 0;
  if (!made) certificate.reset();
  return certificate;
}

// Any certificate will do that holds an Ed25519 key; TLS itself proves possession of the private half, and who the key
// belongs to is for the caller to judge by peer_id().
int accept_any_ed25519(X509_STORE_CTX* store, void*) {
  X509* certificate = X509_STORE_CTX_get0_cert(store);
  EVP_PKEY* key = certificate ? X509_get0_pubkey(certificate) : nullptr;
  if (key && EVP_PKEY_get_id(key) == EVP_PKEY_ED25519) return 1;
  X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);
  return 0;
}

// --- A socket BIO of our own: it counts bytes, a peer that went away raises no SIGPIPE, and records are gathered, for
// a system call for each of them, and the wake-up of the peer that comes with it, would cost as much as the encryption.

using Socket = TlsStream::Socket;

Socket& socket_of(BIO* bio) { return *static_cast<Socket*>(BIO_get_data(bio)); }

bool should_retry(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

// Records on their way to the kernel. One for each thread: it is empty whenever a TlsStream's member returns.
std::vector<std::byte>& batch() {
  thread_local std::vector<std::byte> bytes;
  return bytes;
}

// What of `bytes` the kernel takes.
size_t send_some(Socket& socket, std::span<const std::byte> bytes) {
  size_t taken = 0;
  while (taken < bytes.size() && !socket.error) {
    const ssize_t count = ::send(socket.descriptor, bytes.data() + taken, bytes.size() - taken, MSG_NOSIGNAL);
    if (count >= 0) {
      taken += static_cast<size_t>(count);
    } else if (errno != EINTR) {
      if (!should_retry(errno)) socket.error = errno;
      break;
    }
  }
  socket.sent += taken;
  return taken;
}

// Whether the kernel has all of it.
bool send_unsent(Socket& socket) {
  if (socket.unsent.empty()) return true;
  socket.unsent_begin += send_some(socket, std::span(socket.unsent).subspan(socket.unsent_begin));
  if (socket.unsent_begin < socket.unsent.size()) return false;
  // The buffer goes back to the thread, which may have given it away.
  socket.unsent.clear();
  if (batch().capacity() < socket.unsent.capacity() && batch().empty()) batch().swap(socket.unsent);
  socket.unsent = {};
  socket.unsent_begin = 0;
  return true;
}

void send_batch(Socket& socket) {
  std::vector<std::byte>& bytes = batch();
  if (bytes.empty()) return;
  const size_t taken = send_unsent(socket) ? send_some(socket, bytes) : 0;
  if (bytes.size() - taken >= batch_bytes / 4 && socket.unsent.empty()) {
    socket.unsent.swap(bytes);  // the whole buffer changes hands, and no byte of it is copied
    socket.unsent_begin = taken;
  } else {
    socket.unsent.insert(socket.unsent.end(), bytes.begin() + static_cast<std::ptrdiff_t>(taken), bytes.end());
  }
  bytes.clear();
}

int socket_write(BIO* bio, const char* data, int size) {
  BIO_clear_retry_flags(bio);
  if (socket_of(bio).error) {
    errno = socket_of(bio).error;
    return -1;
  }
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  try {
    batch().insert(batch().end(), bytes, bytes + size);
  } catch (const std::bad_alloc&) {  // must not pass through OpenSSL, which is C
    errno = socket_of(bio).error = ENOMEM;
    return -1;
  }
  return size;
}

int socket_read(BIO* bio, char* data, int size) {
  BIO_clear_retry_flags(bio);
  const ssize_t count = ::recv(socket_of(bio).descriptor, data, static_cast<size_t>(size), 0);
  if (count > 0) {
    socket_of(bio).received += static_cast<uint64_t>(count);
  } else if (count < 0 && should_retry(errno)) {
    BIO_set_retry_read(bio);
  } else if (count == 0) {
    BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
  }
  return static_cast<int>(count);
}

// Called while a client reads: a ticket came. Takes the reference to the session over when it returns 1.
int on_new_session(SSL* ssl, SSL_SESSION* session) {
  auto* const stream = static_cast<TlsStream*>(SSL_get_app_data(ssl));
  if (!stream || SSL_is_server(ssl)) return 0;
  try {
    stream->keep_session({session, SSL_SESSION_free});
  } catch (const std::exception&) {  // must not pass through OpenSSL; the session is freed all the same
  }
  return 1;
}

long socket_control(BIO* bio, int command, long, void*) {
  if (command == BIO_CTRL_FLUSH) {
    send_batch(socket_of(bio));  // before TLS waits for the answer to it
    return 1;
  }
  if (command == BIO_CTRL_EOF) return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
  return 0;
}

int socket_create(BIO* bio) {
  BIO_set_init(bio, 1);
  return 1;
}

const BIO_METHOD* socket_method() {
  static const BIO_METHOD* const method = [] {
    BIO_METHOD* m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "sporkle socket");
    if (m) {
      BIO_meth_set_write(m, socket_write);
      BIO_meth_set_read(m, socket_read);
      BIO_meth_set_ctrl(m, socket_control);
      BIO_meth_set_create(m, socket_create);
    }
    return m;
  }();
  return method;
}

}  // namespace

Result<std::shared_ptr<const TlsContext>> TlsContext::create(const Identity& identity) {
  const auto failed = [](const char* step) {
    return internal_error(std::string("cannot set up TLS: ") + step + ": " + openssl_error());
  };
  ERR_clear_error();
  SSL_CTX* context = SSL_CTX_new(TLS_method());
  if (!context) return failed("no context");
  std::shared_ptr<const TlsContext> owner(new TlsContext(context, identity));
  const CertificatePointer certificate = self_signed_certificate(identity.native_key());
  if (!certificate) return failed("no certificate");
  if (SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) != 1) return failed("no TLS 1.3");
  if (SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384") !=
      1)
    return failed("no cipher suites");
  if (SSL_CTX_set1_groups_list(context, "X25519") != 1) return failed("no X25519");
  if (SSL_CTX_set1_sigalgs_list(context, "ed25519") != 1) return failed("no Ed25519");
  if (SSL_CTX_use_certificate(context, certificate.get()) != 1) return failed("certificate refused");
  if (SSL_CTX_use_PrivateKey(context, identity.native_key()) != 1) return failed("key refused");
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_cert_verify_callback(context, accept_any_ed25519, nullptr);
  SSL_CTX_set_max_cert_list(context, 16 << 10);
  // The server keeps no sessions: its one ticket a connection holds all there is to know. A client's callback hands
  // them to the TlsSessionCache.
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_set_num_tickets(context, 1);
  SSL_CTX_set_timeout(context, session_lifetime_s);
  if (SSL_CTX_set_session_id_context(context, session_context, sizeof session_context) != 1)
    return failed("no session context");
  SSL_CTX_sess_set_new_cb(context, on_new_session);
  SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_read_ahead(context, 1);
  SSL_CTX_set_default_read_buffer_len(context, size_t{64} << 10);  // several records a system call; freed when empty
  SSL_CTX_set_mode(context,
                   SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
  return owner;
}

TlsContext::~TlsContext() { SSL_CTX_free(context_); }

TlsStream::TlsStream(std::shared_ptr<const TlsContext> context, int descriptor, Side side,
                     std::shared_ptr<TlsSessionCache> cache, const NodeId& expected)
    : context_(std::move(context)), cache_(std::move(cache)) {
  socket_.descriptor = descriptor;
  ssl_ = SSL_new(context_->native());
  BIO* bio = socket_method() ? BIO_new(socket_method()) : nullptr;
  if (!ssl_ || !bio) {
    BIO_free(bio);
    SSL_free(ssl_);
    ssl_ = nullptr;
    error_ = "no memory for a TLS connection";
    return;
  }
  BIO_set_data(bio, &socket_);
  SSL_set_bio(ssl_, bio, bio);
  side == Side::client ? SSL_set_connect_state(ssl_) : SSL_set_accept_state(ssl_);
  SSL_set_app_data(ssl_, this);
  if (cache_)
    if (const TlsSessionCache::Session session = cache_->take(expected)) SSL_set_session(ssl_, session.get());
}

TlsStream::~TlsStream() {
  // Freed without this, OpenSSL marks the session as not to be resumed, and a connection that was lost, which is when
  // resuming is wanted, could never be. One that TLS itself found fault with stays marked.
  if (ssl_ && error_.empty() && SSL_is_init_finished(ssl_))
    SSL_set_shutdown(ssl_, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
  SSL_free(ssl_);
}

bool TlsStream::resumed() const { return ssl_ && SSL_session_reused(ssl_) == 1; }

void TlsStream::keep_session(std::shared_ptr<ssl_session_st> session) {
  if (!cache_) return;
  if (const Result<NodeId> peer = peer_id(); peer.ok()) cache_->put(*peer, std::move(session));
}

TlsStream::Progress TlsStream::interpret(int result) {
  switch (SSL_get_error(ssl_, result)) {
    case SSL_ERROR_NONE:
      return Progress::done;
    case SSL_ERROR_WANT_READ:
      return Progress::want_read;
    case SSL_ERROR_WANT_WRITE:
      return Progress::want_write;
    case SSL_ERROR_ZERO_RETURN:
      return Progress::closed;
    case SSL_ERROR_SYSCALL:
      if (errno == 0 || errno == ECONNRESET || errno == EPIPE) return Progress::closed;
      error_ = std::generic_category().message(errno);
      return Progress::failed;
    default:
      if (ERR_GET_REASON(ERR_peek_last_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING) return Progress::closed;
      error_ = openssl_error();
      return Progress::failed;
  }
}

TlsStream::Progress TlsStream::handshake() {
  if (!ssl_) return Progress::failed;
  ERR_clear_error();
  errno = 0;
  Progress progress = greeting_.empty() ? Progress::done : send_greeting();
  if (progress == Progress::done) progress = interpret(SSL_do_handshake(ssl_));
  send_batch(socket_);
  if (progress != Progress::done && progress != Progress::want_read) return progress;
  // Our part may be what the peer waits for.
  const Progress sent = flush();
  return sent == Progress::done ? progress : sent;
}

TlsStream::Progress TlsStream::send_greeting() {
  // Early data of the client's would come out here; there is none, since no ticket of ours allows it.
  unsigned char early = 0;
  size_t count = 0;
  switch (SSL_read_early_data(ssl_, &early, sizeof early, &count)) {
    case SSL_READ_EARLY_DATA_FINISH:
      break;
    case SSL_READ_EARLY_DATA_SUCCESS:
      error_ = "the client sent early data, which no ticket allows";
      return Progress::failed;
    default:
      return interpret(0);
  }
  if (SSL_write_early_data(ssl_, greeting_.data(), greeting_.size(), &count) != 1) return interpret(0);
  greeting_ = {};
  return Progress::done;
}

TlsStream::Progress TlsStream::read(std::span<std::byte> into, size_t& count) {
  ERR_clear_error();
  errno = 0;
  const Progress progress = interpret(SSL_read_ex(ssl_, into.data(), into.size(), &count));
  send_batch(socket_);  // what TLS itself had to say
  return progress;
}

TlsStream::Progress TlsStream::write(std::span<const std::byte> from, size_t& count) {
  count = 0;
  if (const Progress sent = flush(); sent != Progress::done) return sent;
  Progress progress = Progress::done;
  while (count < from.size() && progress == Progress::done && batch().size() < batch_bytes) {
    ERR_clear_error();
    errno = 0;
    size_t taken = 0;
    progress = interpret(SSL_write_ex(ssl_, from.data() + count, from.size() - count, &taken));
    if (progress == Progress::done) count += taken;
  }
  send_batch(socket_);
  return progress;
}

TlsStream::Progress TlsStream::flush() {
  if (send_unsent(socket_)) return Progress::done;
  if (!socket_.error) return Progress::want_write;
  if (socket_.error == ECONNRESET || socket_.error == EPIPE) return Progress::closed;
  error_ = std::generic_category().message(socket_.error);
  return Progress::failed;
}

TlsStream::Progress TlsStream::close_notify() {
  ERR_clear_error();
  errno = 0;
  const int result = SSL_shutdown(ssl_);
  const Progress progress = result >= 0 ? Progress::done : interpret(result);
  send_batch(socket_);
  return progress;
}

Result<NodeId> TlsStream::peer_id() const {
  X509* certificate = SSL_get0_peer_certificate(ssl_);
  EVP_PKEY* key = certificate ? X509_get0_pubkey(certificate) : nullptr;
  PublicKey raw{};
  size_t size = raw.size();
  if (!key || EVP_PKEY_get_raw_public_key(key, reinterpret_cast<unsigned char*>(raw.data()), &size) != 1 ||
      size != raw.size())
    return Status(Code::permission_denied, "the peer has no Ed25519 key");
  return NodeId::of(raw);
}

}  // namespace sporkle::mesh
