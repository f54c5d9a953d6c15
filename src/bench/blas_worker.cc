#include "bench/blas_worker.h"

#include <dlfcn.h>

#include <istream>
#include <map>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "base/seconds.h"
#include "bench/shared_array.h"

namespace sporkle::bench {
namespace {

using Json = nlohmann::json;

// CBLAS's row-major entry points for one type, and the values of its enumerations.
constexpr int kRowMajor = 101, kNoTranspose = 111, kTranspose = 112;
template <typename T>
using Gemm = void (*)(int, int, int, int, int, int, T, const T*, int, const T*, int, T, T*, int);
template <typename T>
using Gemv = void (*)(int, int, int, int, T, const T*, int, const T*, int, T, T*, int);

class Library {
 public:
  static Result<Library> open(std::string_view name, int threads) {
    Library library;
    const bool blis = name == "BLIS";
    if (!blis && name != "OpenBLAS") return invalid_argument("no library is called \"" + std::string(name) + "\"");
    const char* file = blis ? "libblis.so.4" : "libopenblas.so.0";
    library.handle_ = ::dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library.handle_)
      return unsupported("not found: no " + std::string(file) + "; install " +
                         (blis ? "libblis4-pthread" : "libopenblas0-pthread"));
    if (blis) {
      library.call<void (*)(long)>("bli_thread_set_num_threads", [&](auto f) { f(threads); });
      library.version_ = "BLIS";
      library.call<const char* (*)()>("bli_info_get_version_str",
                                      [&](auto f) { library.version_ += " " + std::string(f()); });
      library.call<int (*)()>("bli_arch_query_id", [&](auto query) {
        library.call<const char* (*)(int)>(
            "bli_arch_string", [&](auto f) { library.version_ += ", kernels for " + std::string(f(query())); });
      });
    } else {
      library.call<void (*)(int)>("openblas_set_num_threads", [&](auto f) { f(threads); });
      library.call<const char* (*)()>("openblas_get_config", [&](auto f) { library.version_ = f(); });
      while (!library.version_.empty() && library.version_.back() == ' ') library.version_.pop_back();
      library.call<const char* (*)()>("openblas_get_corename",
                                      [&](auto f) { library.version_ += ", kernels for " + std::string(f()); });
    }
    return library;
  }

  template <typename Function>
  Status load(const std::string& name, Function* target) const {
    void* symbol = ::dlsym(handle_, name.c_str());
    if (!symbol) return unsupported("the library has no " + name);
    *target = reinterpret_cast<Function>(symbol);
    return {};
  }
  const std::string& version() const { return version_; }

 private:
  template <typename Function, typename Use>
  void call(const char* name, const Use& use) const {
    if (void* symbol = ::dlsym(handle_, name)) use(reinterpret_cast<Function>(symbol));
  }

  void* handle_ = nullptr;  // stays open: the process ends soon
  std::string version_;
};

struct Operands {
  SharedArray a, b, c;
};

// One product, ready to run on any input set.
class Product {
 public:
  virtual ~Product() = default;
  virtual Status open(const Library& library, const Json& request) = 0;
  virtual void run(const Operands& operands) const = 0;
  // Where a product can be a matrix times a vector, the routine for that may be the faster one.
  virtual bool has_vector_form() const = 0;
  virtual void use_vector_form(bool use) = 0;
};

template <typename T>
class TypedProduct final : public Product {
 public:
  Status open(const Library& library, const Json& request) override {
    const Json& p = request.at("parameters");
    m_ = p.at("m").get<int>();
    n_ = p.at("n").get<int>();
    k_ = p.at("k").get<int>();
    transpose_a_ = p.at("transpose_a").get<int>() != 0;
    transpose_b_ = p.at("transpose_b").get<int>() != 0;
    const std::string prefix = sizeof(T) == 4 ? "cblas_s" : "cblas_d";
    SPORKLE_RETURN_IF_ERROR(library.load(prefix + "gemm", &gemm_));
    return library.load(prefix + "gemv", &gemv_);
  }
  bool has_vector_form() const override { return m_ == 1 || n_ == 1; }
  void use_vector_form(bool use) override { vector_form_ = use; }

  void run(const Operands& operands) const override {
    const T* a = reinterpret_cast<const T*>(operands.a.bytes().data());
    const T* b = reinterpret_cast<const T*>(operands.b.bytes().data());
    T* c = reinterpret_cast<T*>(operands.c.bytes().data());
    if (!vector_form_) {
      gemm_(kRowMajor, transpose_a_ ? kTranspose : kNoTranspose, transpose_b_ ? kTranspose : kNoTranspose, m_, n_, k_,
            T(1), a, transpose_a_ ? m_ : k_, b, transpose_b_ ? k_ : n_, T(0), c, n_);
    } else if (m_ == 1) {  // c = op(B)^T a
      if (transpose_b_)
        gemv_(kRowMajor, kNoTranspose, n_, k_, T(1), b, k_, a, 1, T(0), c, 1);
      else
        gemv_(kRowMajor, kTranspose, k_, n_, T(1), b, n_, a, 1, T(0), c, 1);
    } else {  // c = op(A) b
      if (transpose_a_)
        gemv_(kRowMajor, kTranspose, k_, m_, T(1), a, m_, b, 1, T(0), c, 1);
      else
        gemv_(kRowMajor, kNoTranspose, m_, k_, T(1), a, k_, b, 1, T(0), c, 1);
    }
  }

 private:
  int m_ = 0, n_ = 0, k_ = 0;
  bool transpose_a_ = false, transpose_b_ = false, vector_form_ = false;
  Gemm<T> gemm_ = nullptr;
  Gemv<T> gemv_ = nullptr;
};

class Worker {
 public:
  explicit Worker(std::string_view name) : name_(name) {}

  Result<Json> answer(const Json& request) {
    const std::string what = request.at("do").get<std::string>();
    if (what == "open") return open(request);
    if (!product_) return invalid_argument("nothing is open");
    if (what == "run") return Json{{"seconds", run(request.at("repetitions").get<int64_t>())}};
    if (what == "store") return Json::object();  // outputs are where they belong
    return invalid_argument("unknown request \"" + what + "\"");
  }

 private:
  Result<Json> open(const Json& request) {
    if (request.at("operation").get<std::string>() != "gemm")
      return unsupported("has no routine for " + request.at("operation").get<std::string>());
    SPORKLE_ASSIGN_OR_RETURN(const Library library, Library::open(name_, request.at("threads").get<int>()));
    std::string dtype;
    for (const Json& set : request.at("sets")) {
      const auto open_array = [&](const char* side, size_t index) -> Result<SharedArray> {
        const Json& array = set.at(side).at(index);
        dtype = array.at("dtype").get<std::string>();
        size_t size_bytes = dtype == "f64" ? 8 : 4;
        for (const Json& extent : array.at("shape")) size_bytes *= extent.get<size_t>();
        return SharedArray::open(array.at("path").get<std::string>(), size_bytes);
      };
      SPORKLE_ASSIGN_OR_RETURN(SharedArray a, open_array("inputs", 0));
      SPORKLE_ASSIGN_OR_RETURN(SharedArray b, open_array("inputs", 1));
      SPORKLE_ASSIGN_OR_RETURN(SharedArray c, open_array("outputs", 0));
      sets_.push_back({std::move(a), std::move(b), std::move(c)});
    }
    if (sets_.empty()) return invalid_argument("there is no input set");
    if (dtype == "f64")
      product_ = std::make_unique<TypedProduct<double>>();
    else
      product_ = std::make_unique<TypedProduct<float>>();
    SPORKLE_RETURN_IF_ERROR(product_->open(library, request));
    std::string version = library.version();
    if (product_->has_vector_form()) {
      const auto best_of_three = [&](bool vector_form) {
        product_->use_vector_form(vector_form);
        double best = run(static_cast<int64_t>(sets_.size()));
        for (int i = 0; i < 2; ++i) best = std::min(best, run(static_cast<int64_t>(sets_.size())));
        return best;
      };
      const bool vector_form = best_of_three(true) < best_of_three(false);
      product_->use_vector_form(vector_form);
      version += vector_form ? ", gemv" : ", gemm";
    }
    return Json{{"version", version}};
  }

  double run(int64_t repetitions) const {
    const double start_s = now_s();
    for (int64_t i = 0; i < repetitions; ++i) product_->run(sets_[static_cast<size_t>(i) % sets_.size()]);
    return now_s() - start_s;
  }

  std::string name_;
  std::unique_ptr<Product> product_;
  std::vector<Operands> sets_;
};

}  // namespace

Status serve_blas(std::string_view name, std::istream& in, std::ostream& out) {
  Worker worker(name);
  for (std::string line; std::getline(in, line);) {
    Json reply;
    try {
      Result<Json> answer = worker.answer(Json::parse(line));
      reply = answer.ok() ? *answer : Json{{"error", answer.status().message()}};
    } catch (const nlohmann::json::exception& error) {
      reply = {{"error", std::string("not a request: ") + error.what()}};
    }
    out << reply.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
  }
  return {};
}

}  // namespace sporkle::bench
