// gRPC's side of `sporkle bench rpc`: its callback API under mutual TLS, client and server in this process as ours are.
//
// Reads one command a line and answers with one line: "calls N MS" (64-byte calls, N in flight, for MS ms) answers with
// calls per second, p50 and p99 in us; "stream BYTES" with seconds; "connect" with the ms until a new channel has its
// first answer; "version" with gRPC's. A failure answers "error WHY". Every answer is checked, of a stream the count of
// bytes.
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <future>
#include <iostream>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using grpc::ByteBuffer;

constexpr size_t kStreamMessage = size_t{1} << 20;

std::string bio_text(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  std::string text(data, static_cast<size_t>(size));
  BIO_free(bio);
  return text;
}

struct Pem {
  std::string key, certificate;
};

// Its own authority: both sides present it and both trust only it.
Pem self_signed() {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* x509 = X509_new();
  X509_set_version(x509, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(x509), 1);
  X509_gmtime_adj(X509_getm_notBefore(x509), -3600);
  X509_gmtime_adj(X509_getm_notAfter(x509), 86400);
  X509_set_pubkey(x509, key);
  X509_NAME* name = X509_get_subject_name(x509);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
  X509_set_issuer_name(x509, name);
  X509_EXTENSION* names = X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "DNS:localhost");
  X509_add_ext(x509, names, -1);
  X509_EXTENSION_free(names);
  X509_sign(x509, key, EVP_sha256());
  Pem pem;
  BIO* bio = BIO_new(BIO_s_mem());
  PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
  pem.key = bio_text(bio);
  bio = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(bio, x509);
  pem.certificate = bio_text(bio);
  X509_free(x509);
  EVP_PKEY_free(key);
  return pem;
}

// Echoes the first message of "/bench/echo"; counts and sums the bytes of "/bench/sink".
class Reactor : public grpc::ServerGenericBidiReactor {
 public:
  explicit Reactor(bool echo) : echo_(echo) { StartRead(&message_); }
  void OnReadDone(bool ok) override {
    if (ok && echo_) return StartWriteAndFinish(&message_, {}, grpc::Status::OK);
    if (!ok) {
      grpc::Slice slice(&bytes_, sizeof bytes_);
      answer_ = ByteBuffer(&slice, 1);
      return StartWriteAndFinish(&answer_, {}, grpc::Status::OK);
    }
    bytes_ += message_.Length();
    StartRead(&message_);
  }
  void OnDone() override { delete this; }

 private:
  const bool echo_;
  ByteBuffer message_, answer_;
  uint64_t bytes_ = 0;
};

class Service : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    return new Reactor(context->method() == "/bench/echo");
  }
};

std::string text_of(const ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string text;
  if (buffer.Dump(&slices).ok())
    for (const grpc::Slice& slice : slices) text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return text;
}

class Bench {
 public:
  Bench() : pem_(self_signed()) {
    grpc::SslServerCredentialsOptions options(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
    options.pem_root_certs = pem_.certificate;
    options.pem_key_cert_pairs = {{pem_.key, pem_.certificate}};
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::SslServerCredentials(options), &port_);
    builder.RegisterCallbackGenericService(&service_);
    builder.SetMaxReceiveMessageSize(-1);
    server_ = builder.BuildAndStart();
    channel_ = connect();
    stub_ = std::make_unique<grpc::GenericStub>(channel_);
  }

  std::string calls(int in_flight, int ms) {
    struct Run {
      std::mutex mutex;
      std::vector<double> us;
      std::string error;
      std::atomic<int> open{0};
      std::promise<void> over;
    } run;
    const std::string text(64, 'x');
    const auto begin = Clock::now(), end = begin + std::chrono::milliseconds(ms);
    std::function<void()> next = [&] {
      struct Call {
        grpc::ClientContext context;
        ByteBuffer request, response;
      };
      auto call = std::make_shared<Call>();
      const grpc::Slice slice(text);
      call->request = ByteBuffer(&slice, 1);
      const auto start = Clock::now();
      stub_->UnaryCall(&call->context, "/bench/echo", {}, &call->request, &call->response,
                       [&, call, start](const grpc::Status& status) {
                         const auto now = Clock::now();
                         bool good = status.ok() && text_of(call->response) == text;
                         {
                           const std::lock_guard lock(run.mutex);
                           if (good) run.us.push_back(std::chrono::duration<double, std::micro>(now - start).count());
                           if (!good) run.error = "a call failed: " + status.error_message();
                         }
                         if (good && now < end) return next();
                         if (--run.open == 0) run.over.set_value();
                       });
    };
    run.open = in_flight;
    for (int i = 0; i < in_flight; ++i) next();
    run.over.get_future().wait();
    if (!run.error.empty()) return "error " + run.error;
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    std::sort(run.us.begin(), run.us.end());
    const size_t count = run.us.size();
    std::ostringstream out;
    out << static_cast<double>(count) / seconds << ' ' << run.us[count / 2] << ' ' << run.us[count * 99 / 100];
    return out.str();
  }

  std::string stream(uint64_t bytes) {
    class Writer : public grpc::ClientBidiReactor<ByteBuffer, ByteBuffer> {
     public:
      Writer(const ByteBuffer& message, uint64_t count) : message_(message), left_(count) {}
      void begin() {
        StartRead(&answer);
        StartWrite(&message_);
        StartCall();
      }
      void OnWriteDone(bool ok) override {
        if (ok && --left_ > 0) return StartWrite(&message_);
        StartWritesDone();
      }
      void OnDone(const grpc::Status& status) override { over.set_value(status); }
      ByteBuffer answer;
      std::promise<grpc::Status> over;

     private:
      ByteBuffer message_;
      uint64_t left_;
    };
    if (noise_.empty()) {
      uint64_t word = 1;
      for (noise_.resize(kStreamMessage); char& c : noise_)
        c = static_cast<char>((word = word * 6364136223846793005u + 1442695040888963407u) >> 56);
    }
    const grpc::Slice slice(noise_.data(), noise_.size(), grpc::Slice::STATIC_SLICE);
    const auto start = Clock::now();
    grpc::ClientContext context;
    Writer writer(ByteBuffer(&slice, 1), bytes / kStreamMessage);
    stub_->PrepareBidiStreamingCall(&context, "/bench/sink", {}, &writer);
    writer.begin();
    const grpc::Status status = writer.over.get_future().get();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    uint64_t arrived = 0;
    const std::string answer = text_of(writer.answer);
    if (answer.size() == sizeof arrived) std::memcpy(&arrived, answer.data(), sizeof arrived);
    if (!status.ok() || arrived != bytes) return "error the stream failed: " + status.error_message();
    return std::to_string(seconds);
  }

  std::string connect_once() {
    const auto start = Clock::now();
    grpc::GenericStub stub(connect());
    grpc::ClientContext context;
    const grpc::Slice slice(std::string(64, 'x'));
    ByteBuffer request(&slice, 1), response;
    std::promise<grpc::Status> over;
    stub.UnaryCall(&context, "/bench/echo", {}, &request, &response, [&](grpc::Status s) { over.set_value(s); });
    const grpc::Status status = over.get_future().get();
    const double ms = std::chrono::duration<double, std::milli>(Clock::now() - start).count();
    if (!status.ok() || text_of(response) != std::string(64, 'x')) return "error " + status.error_message();
    return std::to_string(ms);
  }

 private:
  std::shared_ptr<grpc::Channel> connect() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
    arguments.SetSslTargetNameOverride("localhost");
    return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port_),
                                     grpc::SslCredentials({pem_.certificate, pem_.key, pem_.certificate}), arguments);
  }

  Pem pem_;
  int port_ = 0;
  Service service_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<grpc::GenericStub> stub_;
  std::string noise_;
};

}  // namespace

int main() {
  Bench bench;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string what;
    words >> what;
    uint64_t a = 0, b = 0;
    words >> a >> b;
    if (what == "version")
      std::cout << "gRPC " << grpc::Version() << std::endl;
    else if (what == "calls")
      std::cout << bench.calls(static_cast<int>(a), static_cast<int>(b)) << std::endl;
    else if (what == "stream")
      std::cout << bench.stream(a) << std::endl;
    else if (what == "connect")
      std::cout << bench.connect_once() << std::endl;
    else
      std::cout << "error unknown command " << what << std::endl;
  }
}
