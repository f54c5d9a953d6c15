#include "codegen/attention_form.h"

#include <bit>
#include <limits>

#include "ir/text.h"

namespace sporkle::codegen {
namespace {

using dsl::Buffer;
using dsl::Expr;
using dsl::KernelBuilder;
using ir::DType;
using Kind = AttentionForm::Kind;

constexpr std::string_view kNames[] = {"attention_units", "attention_units_keys", "attention_units_queries"};
constexpr std::string_view kPacked = " packed", kSize = " size";

Expr zero() { return dsl::constant(DType::f32, 0); }

// A head's lines of one operand.
struct Lines {
  Buffer buffer;
  Expr start, line;

  Expr index(Expr position, Expr c) const { return start + position * line + c; }
  Expr at(Expr position, Expr c) const { return cast(DType::f32, buffer[index(position, c)]); }
  void store(Expr position, Expr c, Expr value) const { buffer.store(index(position, c), cast(DType::bf16, value)); }
};

class Definition {
 public:
  Definition(KernelBuilder& k, const AttentionForm& form)
      : k_(k), form_(form), q_(k.input(DType::bf16, form.packed ? "qkv" : "q")) {
    keys_ = form.packed ? q_ : k.input(DType::bf16, "k");
    values_ = form.packed ? q_ : k.input(DType::bf16, "v");
  }

  void define() {
    if (form_.kind == Kind::forward)
      forward();
    else if (form_.kind == Kind::keys)
      key_gradients();
    else
      query_gradients();
  }

 private:
  void declare_scalars() {
    rows_ = k_.size("rows");
    p_.heads = k_.size("heads");
    p_.kv_heads = k_.size("kv_heads");
    p_.length = k_.size("tiles") * kAttentionTile;
    p_.size = Expr(form_.size);
    p_.packed = form_.packed;
    scale_ = k_.scalar(DType::f32, "scale");
    sharing_ = p_.heads / p_.kv_heads;
  }
  Lines query(const Buffer& b, Expr row, Expr head) const { return {b, p_.query(row, head), p_.line()}; }
  Lines key(const Buffer& b, Expr row, Expr kv_head) const { return {b, p_.key(row, kv_head), p_.line()}; }
  Lines value(const Buffer& b, Expr row, Expr kv_head) const { return {b, p_.value(row, kv_head), p_.line()}; }
  Lines result(const Buffer& b, Expr row, Expr head) const { return {b, p_.result(row, head), p_.result_line()}; }

  Expr product(const Lines& a, Expr m, const Lines& b, Expr n) {
    return k_.fma_chain("c", p_.size, zero(), [&](Expr c) { return std::pair(a.at(m, c), b.at(n, c)); });
  }

  void forward() {
    const Buffer y = k_.output(DType::bf16, "result"), logs = k_.output(DType::f32, "logs");
    declare_scalars();
    k_.range("query", rows_ * p_.heads * p_.length, [&](Expr at) {
      const Expr m = at % p_.length, head = at / p_.length % p_.heads, row = at / p_.length / p_.heads;
      const Lines q = query(q_, row, head), keys = key(keys_, row, head / sharing_);
      const Lines v = value(values_, row, head / sharing_), to = result(y, row, head);
      const Buffer scores = k_.scratch(DType::f32, "scores", p_.length);
      const Expr seen = m + 1;
      k_.range("n", seen, [&](Expr n) { scores.store(n, product(q, m, keys, n) * scale_); });
      const Expr lowest = dsl::constant(DType::f32, -std::numeric_limits<double>::infinity());
      const Expr top = k_.reduce("a", ir::Combine::max, 1, seen, lowest, [&](Expr n) { return scores[n]; });
      const Expr total =
          k_.reduce("b", ir::Combine::add, 1, seen, zero(), [&](Expr n) { return exp(scores[n] - top); });
      logs.store(at, log(total) + top);
      k_.range("d", p_.size, [&](Expr d) {
        const Expr sum =
            k_.fma_chain("s", seen, zero(), [&](Expr n) { return std::pair(exp(scores[n] - top), v.at(n, d)); });
        to.store(m, d, sum / total);
      });
    });
  }

  void declare_backward() {
    logs_ = k_.input(DType::f32, "logs");
    means_ = k_.input(DType::f32, "means");
    dy_ = k_.input(DType::bf16, "dy");
  }

  // Of the query m of a head, whose logarithm is at `at`.
  Expr weight(const Lines& q, Expr m, const Lines& keys, Expr n, Expr at) {
    return exp(product(q, m, keys, n) * scale_ - logs_[at]);
  }

  void key_gradients() {
    declare_backward();
    const Buffer dk = k_.output(DType::bf16, form_.packed ? "dqkv" : "dk");
    const Buffer dv = form_.packed ? dk : k_.output(DType::bf16, "dv");
    declare_scalars();
    k_.range("key", rows_ * p_.kv_heads * p_.length, [&](Expr at) {
      const Expr n = at % p_.length, kv_head = at / p_.length % p_.kv_heads, row = at / p_.length / p_.kv_heads;
      const Lines keys = key(keys_, row, kv_head), v = value(values_, row, kv_head);
      const Buffer weights = k_.scratch(DType::f32, "weights", sharing_ * p_.length);
      const Buffer slopes = k_.scratch(DType::f32, "slopes", sharing_ * p_.length);
      const Expr see = p_.length - n;  // so many queries of a head
      const auto query_of = [&](Expr i) { return std::pair(kv_head * sharing_ + i / see, n + i % see); };
      k_.range("i", sharing_ * see, [&](Expr i) {
        const auto [head, m] = query_of(i);
        const Expr number = (row * p_.heads + head) * p_.length + m;
        const Expr w = weight(query(q_, row, head), m, keys, n, number);
        weights.store(i, w);
        slopes.store(i, w * (product(result(dy_, row, head), m, v, n) - means_[number]));
      });
      const Lines to_k = key(dk, row, kv_head), to_v = value(dv, row, kv_head);
      k_.range("d", p_.size, [&](Expr d) {
        const auto sum = [&](const Buffer& factors, const std::function<Expr(Expr, Expr)>& other) {
          return k_.fma_chain("s", sharing_ * see, zero(), [&](Expr i) {
            const auto [head, m] = query_of(i);
            return std::pair(factors[i], other(head, m));
          });
        };
        to_k.store(n, d, sum(slopes, [&](Expr head, Expr m) { return query(q_, row, head).at(m, d); }) * scale_);
        to_v.store(n, d, sum(weights, [&](Expr head, Expr m) { return result(dy_, row, head).at(m, d); }));
      });
    });
  }

  void query_gradients() {
    declare_backward();
    const Buffer dq = form_.packed ? k_.in_out(DType::bf16, "dqkv") : k_.output(DType::bf16, "dq");
    declare_scalars();
    k_.range("query", rows_ * p_.heads * p_.length, [&](Expr at) {
      const Expr m = at % p_.length, head = at / p_.length % p_.heads, row = at / p_.length / p_.heads;
      const Lines q = query(q_, row, head), keys = key(keys_, row, head / sharing_);
      const Lines v = value(values_, row, head / sharing_), dy = result(dy_, row, head), to = query(dq, row, head);
      const Buffer slopes = k_.scratch(DType::f32, "slopes", p_.length);
      k_.range("n", m + 1,
               [&](Expr n) { slopes.store(n, weight(q, m, keys, n, at) * (product(dy, m, v, n) - means_[at])); });
      k_.range("d", p_.size, [&](Expr d) {
        to.store(m, d, k_.fma_chain("s", m + 1, zero(), [&](Expr n) {
          return std::pair(slopes[n], keys.at(n, d));
        }) * scale_);
      });
    });
  }

  KernelBuilder& k_;
  const AttentionForm& form_;
  Buffer q_, keys_{nullptr}, values_{nullptr}, logs_{nullptr}, means_{nullptr}, dy_{nullptr};
  Expr rows_, scale_, sharing_;
  AttentionPlaces<Expr> p_;
};

}  // namespace

std::string AttentionForm::name() const {
  std::string result(kNames[static_cast<size_t>(kind)]);
  if (packed) result += kPacked;
  return result + std::string(kSize) + std::to_string(size);
}

void define_attention(KernelBuilder& k, const AttentionForm& form) { Definition(k, form).define(); }

void append_attention_scalars(int64_t rows, int64_t heads, int64_t kv_heads, int64_t length, float scale,
                              std::vector<uint64_t>* scalars) {
  for (const int64_t value : {rows, heads, kv_heads, length / kAttentionTile})
    scalars->push_back(static_cast<uint64_t>(value));
  scalars->push_back(std::bit_cast<uint32_t>(scale));
}

std::optional<AttentionForm> find_attention(const ir::Kernel& kernel) {
  const size_t at = kernel.name.rfind(kSize);
  if (!kernel.name.starts_with(kNames[0]) || at == std::string::npos) return std::nullopt;
  AttentionForm form;
  for (const char digit : std::string_view(kernel.name).substr(at + kSize.size())) {
    if (digit < '0' || digit > '9' || form.size > 4096) return std::nullopt;
    form.size = 10 * form.size + (digit - '0');
  }
  if (form.size < 16 || form.size % 16 != 0) return std::nullopt;
  for (const Kind kind : {Kind::forward, Kind::keys, Kind::queries})
    for (const bool packed : {false, true}) {
      form.kind = kind;
      form.packed = packed;
      if (form.name() != kernel.name) continue;
      // The name is but a claim.
      const ir::Kernel meant = dsl::trace(
          kernel.name, [&](KernelBuilder& k) { define_attention(k, form); }, kernel.numerics);
      if (ir::print(meant) == ir::print(kernel)) return form;
    }
  return std::nullopt;
}

std::optional<std::string> attention_refusal(const VulkanTarget& target, int64_t size) {
  if (!target.matrix_bf16) return "the device has no matrix units for bf16 (VK_KHR_cooperative_matrix)";
  if (!target.storage16) return "the device has no 16-bit storage";
  if (target.subgroup == 0 || 4 * target.subgroup > target.workgroup) return "its workgroups are too small";
  if (size < 16 || size > 64 || size % 16 != 0 || size * kAttentionTile / 8 % (4 * int64_t{target.subgroup}) != 0)
    return "heads of size " + std::to_string(size) + " are not made on matrix units: 16 to 64 in steps of 16 are";
  if (target.shared_kib < 48) return "its workgroups have less than 48 KiB of memory";
  return std::nullopt;
}

}  // namespace sporkle::codegen
