#include "ir/half_pi.h"

#include <cmath>
#include <vector>

namespace sporkle::ir {
namespace {

// 2/pi = 0.a2f9836e4e44... in base 2^32.
constexpr uint32_t kTwoOverPi[] = {0xa2f9836e, 0x4e441529, 0xfc2757d1, 0xf534ddc0, 0xdb629599, 0x3c439041, 0xfe5163ab,
                                   0xdebbc561, 0xb7246e3a, 0x424dd2e0, 0x06492eea, 0x09d1921c, 0xfe1deb1c, 0xb129a73e,
                                   0xe88235f5, 0x2ebb4484, 0xe99c7026, 0xb45f7e41, 0x3991d639, 0x835339f4, 0x9c845f8b,
                                   0xbdf9283b, 0x1ff897ff, 0xde05980f, 0xef2f118b, 0x5a0a6d1f, 0x6d367ecf, 0x27cb09b7,
                                   0x4f463f66, 0x9e5fea2d, 0x7527bac7, 0xebe5f17b, 0x3d0739f7, 0x8a5292ea, 0x6bfb5fb1,
                                   0x1f8d5d08, 0x56033046, 0xfc7b6bab};

// How wide the numbers are. A window of 2/pi has 2 bits of quadrant, and so many of fraction that the product with the
// mantissa is good to the type's precision even where x lies next to a multiple of pi/2 (at 2^-30 quadrants for f32,
// 2^-62 for f64).
struct Widths {
  DType type, integer;
  int mantissa_bits, bias, largest_exponent;
  int smallest_exponent;  // of the smallest x: log2
  int window_words;       // of 32 bits
  double half_pi, half_pi_low;
};
constexpr Widths kWidths32{DType::f32, DType::u32, 23, 127, 127, 13, 3, 0x1.921fb6p+0, -0x1.777a5cp-25};
constexpr Widths kWidths64{DType::f64, DType::u64, 52, 1023, 1023, 20, 6, 0x1.921fb54442d18p+0, 0x1.1a62633145c07p-54};

const Widths& widths_of(DType type) { return type == DType::f32 ? kWidths32 : kWidths64; }

class Reduction {
 public:
  Reduction(Builder& builder, const Node* x) : b_(builder), w_(widths_of(x->type)), x_(x) {}

  ReducedAngle run() {
    const Node* bits = b_.bitcast(w_.integer, x_);
    const Node* exponent = b_.binary(Op::shr, bits, number(w_.integer, w_.mantissa_bits));
    // x = mantissa 2^(first_exponent + offset), and the window of 2/pi begins at bit `offset` of the stream.
    const Node* offset = b_.cast(DType::u32, b_.sub(exponent, number(w_.integer, w_.bias + w_.smallest_exponent)));
    const int64_t one = int64_t{1} << w_.mantissa_bits;
    const Node* mantissa =
        b_.binary(Op::bit_or, b_.binary(Op::bit_and, bits, number(w_.integer, one - 1)), number(w_.integer, one));
    const std::vector<const Node*> window = window_at(offset);
    return w_.type == DType::f32 ? reduce32(mantissa, window) : reduce64(mantissa, window);
  }

 private:
  const Node* number(DType type, int64_t value) { return b_.bits(type, value); }
  const Node* u64(int64_t value) { return number(DType::u64, value); }
  const Node* wide(const Node* value) { return b_.cast(DType::u64, value); }
  const Node* shift_right(const Node* value, int count) {
    return b_.binary(Op::shr, value, number(value->type, count));
  }
  const Node* shift_left(const Node* value, int count) { return b_.binary(Op::shl, value, number(value->type, count)); }
  const Node* low_word(const Node* value) { return b_.binary(Op::bit_and, value, u64(0xffffffff)); }

  // The 32 bits of 2/pi from bit 32 `word` of the stream on, which begins before the binary point: where x is smallest,
  // a window's first bit is worth 2 once x's power of two has multiplied it.
  uint32_t stream_word(int word) const {
    const int leading_zeros = 2 - (w_.smallest_exponent - w_.mantissa_bits);
    const int first = 32 * word - leading_zeros;
    const auto bits_from = [](int index) -> uint64_t {
      const int count = static_cast<int>(std::size(kTwoOverPi));
      return index >= 0 && index < count ? kTwoOverPi[index] : 0;
    };
    const int index = first >= 0 ? first / 32 : -((31 - first) / 32), within = first - 32 * index;
    return static_cast<uint32_t>((bits_from(index) << 32 | bits_from(index + 1)) << within >> 32);
  }

  // `window_words` words of 32 bits, as u64, from bit `offset` of the stream on. Halving steps pick whole words.
  std::vector<const Node*> window_at(const Node* offset) {
    const int largest_offset = w_.largest_exponent - w_.smallest_exponent;
    std::vector<const Node*> words;
    int step = 1;
    while (2 * step <= largest_offset / 32) step *= 2;
    for (int i = 0; i <= largest_offset / 32 + w_.window_words; ++i)
      words.push_back(number(DType::u32, static_cast<int64_t>(stream_word(i))));
    for (; step > 0; step /= 2) {
      const Node* is_further = b_.binary(Op::not_equal, b_.binary(Op::bit_and, offset, number(DType::u32, 32 * step)),
                                         number(DType::u32, 0));
      // The first window_words + 1, at most step - 1 words further on.
      std::vector<const Node*> picked;
      for (size_t i = 0; i < static_cast<size_t>(w_.window_words + step); ++i) {
        if (i >= words.size()) break;
        const size_t further = std::min(i + static_cast<size_t>(step), words.size() - 1);
        picked.push_back(b_.select(is_further, words[further], words[i]));
      }
      words = std::move(picked);
    }
    const Node* rest = wide(b_.binary(Op::bit_and, offset, number(DType::u32, 31)));
    std::vector<const Node*> window;
    for (size_t i = 0; i < static_cast<size_t>(w_.window_words); ++i) {
      const Node* both = b_.binary(Op::bit_or, shift_left(wide(words[i]), 32), wide(words[i + 1]));
      window.push_back(shift_right(b_.binary(Op::shl, both, rest), 32));
    }
    return window;
  }

  // The quadrant that is nearest, of a product modulo 4 with 62 bits of fraction, and the fraction that is left.
  struct Split {
    const Node *quadrant, *fraction, *sign;  // u64; the fraction's two's complement, and all ones where it is negative
  };
  Split split(const Node* product) {
    const Node* quadrant = shift_right(b_.add(product, u64(int64_t{1} << 61)), 62);
    const Node* fraction = b_.sub(product, shift_left(quadrant, 62));
    const Node* sign = b_.bitcast(DType::u64, shift_right(b_.bitcast(DType::i64, fraction), 63));
    return {quadrant, fraction, sign};
  }

  // A whole number of at most mantissa_bits bits, exactly: as the low bits of 2^mantissa_bits and something.
  const Node* to_float(const Node* value) {
    const double magic = std::ldexp(1.0, w_.mantissa_bits);
    const Node* low = b_.cast(w_.integer, value);
    const Node* bits = b_.binary(Op::bit_or, low, number(w_.integer, constant_bits(w_.type, magic)));
    return b_.sub(b_.bitcast(w_.type, bits), b_.constant(w_.type, magic));
  }

  // (top 2^top_bits + middle 2^middle_bits + low) 2^-fraction_bits pi/2: each of the three is exact in the type.
  const Node* remainder(const Node* top, int top_bits, const Node* middle, int middle_bits, const Node* low,
                        int fraction_bits, const Node* sign) {
    const auto scaled = [&](double value, int bits) {
      return b_.constant(w_.type, std::ldexp(value, bits - fraction_bits));
    };
    const Node *t = to_float(top), *m = to_float(middle);
    const Node* sum = b_.mul(to_float(low), scaled(w_.half_pi, 0));
    sum = b_.fma(m, scaled(w_.half_pi_low, middle_bits), sum);
    sum = b_.fma(m, scaled(w_.half_pi, middle_bits), sum);
    sum = b_.fma(t, scaled(w_.half_pi_low, top_bits), sum);
    sum = b_.fma(t, scaled(w_.half_pi, top_bits), sum);
    const Node* sign_bit =
        shift_left(b_.cast(w_.integer, b_.binary(Op::bit_and, sign, u64(1))), 8 * dtype_size(w_.type) - 1);
    return b_.bitcast(w_.type, b_.binary(Op::bit_xor, b_.bitcast(w_.integer, sum), sign_bit));
  }

  ReducedAngle reduce32(const Node* mantissa, const std::vector<const Node*>& window) {
    const Node* m = wide(mantissa);
    const Node* product = b_.add(b_.add(shift_left(b_.mul(m, window[0]), 32), b_.mul(m, window[1])),
                                 shift_right(b_.mul(m, window[2]), 32));
    const Split parts = split(product);
    const Node* magnitude = b_.sub(b_.binary(Op::bit_xor, parts.fraction, parts.sign), parts.sign);
    const Node* middle = b_.binary(Op::bit_and, shift_right(magnitude, 16), u64(0x7fffff));
    const Node* low = b_.binary(Op::bit_and, magnitude, u64(0xffff));
    return {b_.cast(DType::u32, parts.quadrant),
            remainder(shift_right(magnitude, 39), 39, middle, 16, low, 62, parts.sign)};
  }

  // 53 bits times 192 bits, the first 128 of the last 192: in words of 32 bits, the upper half of the mantissa one word
  // further up.
  ReducedAngle reduce64(const Node* mantissa, const std::vector<const Node*>& window) {
    const std::vector<const Node*> lower = multiply(low_word(mantissa), window);
    const std::vector<const Node*> upper = multiply(shift_right(mantissa, 32), window);
    const Node *carry = u64(0), *words[4];
    for (size_t i = 5; i-- > 0;) {
      const Node* sum = b_.add(b_.add(lower[i], upper[i + 1]), carry);
      carry = shift_right(sum, 32);
      if (i < 4) words[i] = low_word(sum);
    }
    const auto joined = [&](const Node* high, const Node* low) {
      return b_.binary(Op::bit_or, shift_left(high, 32), low);
    };
    const Split parts = split(joined(words[0], words[1]));
    // The complement is one unit of 2^-126 short of the negative, which is 2^-64 of the smallest fraction there is.
    const Node* high = b_.binary(Op::bit_xor, parts.fraction, parts.sign);
    const Node* low = b_.binary(Op::bit_xor, joined(words[2], words[3]), parts.sign);
    const Node* middle =
        b_.binary(Op::bit_or, shift_left(b_.binary(Op::bit_and, high, u64(0x3ff)), 42), shift_right(low, 22));
    return {parts.quadrant, remainder(shift_right(high, 10), 74, middle, 22, b_.binary(Op::bit_and, low, u64(0x3fffff)),
                                      126, parts.sign)};
  }

  // One word times several, most significant first; what overflows the first is dropped.
  std::vector<const Node*> multiply(const Node* word, const std::vector<const Node*>& by) {
    std::vector<const Node*> result(by.size());
    const Node* carry = u64(0);
    for (size_t i = by.size(); i-- > 0;) {
      const Node* product = b_.add(b_.mul(word, by[i]), carry);
      carry = shift_right(product, 32);
      result[i] = low_word(product);
    }
    return result;
  }

  Builder& b_;
  const Widths& w_;
  const Node* x_;
};

}  // namespace

double smallest_for_half_pi(DType type) { return std::ldexp(1.0, widths_of(type).smallest_exponent); }

ReducedAngle reduce_by_half_pi(Builder& b, const Node* x) { return Reduction(b, x).run(); }

}  // namespace sporkle::ir
