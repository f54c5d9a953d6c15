#include "train/compression_kernels.h"

#include "dsl/kernel.h"

namespace sporkle::train::kernels {
namespace {

using dsl::Buffer;
using dsl::cast;
using dsl::constant;
using dsl::Expr;
using dsl::KernelBuilder;
using dsl::select;
using ir::DType;

Expr f32(double number) { return constant(DType::f32, number); }
Expr u32(double number) { return constant(DType::u32, number); }
Expr i32(double number) { return constant(DType::i32, number); }

// Round half to even for |x| <= 2^22: the sum's last place is worth 1, so the addition itself rounds.
Expr round_half_even(Expr x) {
  const Expr shift = f32(12582912.0);  // 1.5 * 2^23
  return (x + shift) - shift;
}

// A whole number in [-most, most]. A subnormal scale is inexact, and may be 0: clamp, and send zeros; error feedback
// keeps what is left.
Expr code_of(Expr x, Expr scale, double most) {
  const Expr clamped = dsl::min(dsl::max(x / scale, f32(-most)), f32(most));
  return select(scale > f32(0.0), round_half_even(clamped), f32(0.0));
}

Expr largest_magnitude(KernelBuilder& k, const Buffer& x, Expr first, Expr count) {
  return k.reduce("k", ir::Combine::max, 16, count, f32(0.0), [&](Expr i) { return dsl::abs(x[first + i]); });
}

// How many of a block's values are sent.
Expr kept_of(Expr count) { return (count + (kTopkSpacing - 1)) / kTopkSpacing; }

// Calls body(block, first value, values) for each block; the loop is called "block".
void for_each_block(KernelBuilder& k, Expr n, Expr block, Expr blocks,
                    const std::function<void(Expr, Expr, Expr)>& body) {
  k.range("block", blocks, [&](Expr b) {
    const Expr first = b * block;
    body(b, first, dsl::min(block, n - first));
  });
}

}  // namespace

const KernelRunner::Definition& encode_int8() {
  static const KernelRunner::Definition kernel{
      "compress_int8",
      [](KernelBuilder& k) {
        const Buffer x = k.input(DType::f32, "x");
        const Buffer scales = k.in_out(DType::f32, "scales"), codes = k.output(DType::i8, "codes");
        const Expr n = k.size("n"), block = k.size("block"), blocks = k.size("blocks");
        for_each_block(k, n, block, blocks, [&](Expr b, Expr first, Expr count) {
          scales.store(b, largest_magnitude(k, x, first, count) / f32(127.0));
          k.range("i", count,
                  [&](Expr i) { codes.store(first + i, cast(DType::i8, code_of(x[first + i], scales[b], 127.0))); });
        });
      },
      "block:thread16 i:vec"};
  return kernel;
}

const KernelRunner::Definition& decode_int8() {
  static const KernelRunner::Definition kernel{
      "decompress_int8",
      [](KernelBuilder& k) {
        const Buffer scales = k.input(DType::f32, "scales"), codes = k.input(DType::i8, "codes");
        const Buffer x = k.output(DType::f32, "x");
        const Expr n = k.size("n"), block = k.size("block"), blocks = k.size("blocks");
        for_each_block(k, n, block, blocks, [&](Expr b, Expr first, Expr count) {
          k.range("i", count, [&](Expr i) { x.store(first + i, scales[b] * cast(DType::f32, codes[first + i])); });
        });
      },
      "block:thread16 i:vec"};
  return kernel;
}

const KernelRunner::Definition& encode_int4() {
  static const KernelRunner::Definition kernel{
      "compress_int4",
      [](KernelBuilder& k) {
        const Buffer x = k.input(DType::f32, "x");
        const Buffer scales = k.in_out(DType::f32, "scales"), codes = k.output(DType::u8, "codes");
        const Expr n = k.size("n"), blocks = k.size("blocks");
        for_each_block(k, n, kInt4Block, blocks, [&](Expr b, Expr first, Expr count) {
          scales.store(b, largest_magnitude(k, x, first, count) / f32(7.0));
          const auto four_bits = [&](Expr value) { return cast(DType::i32, code_of(value, scales[b], 7.0)) + i32(8); };
          k.range("byte", (count + 1) / 2, [&](Expr j) {
            const Expr odd = j * 2 + 1;
            const Expr high = select(odd < count, four_bits(x.load(first + odd, odd < count, 0)), i32(0));
            const Expr both = four_bits(x[first + j * 2]) | (high << i32(4));
            codes.store(b * (kInt4Block / 2) + j, cast(DType::u8, both));
          });
        });
      },
      "block:thread16 byte:vec"};
  return kernel;
}

const KernelRunner::Definition& decode_int4() {
  static const KernelRunner::Definition kernel{
      "decompress_int4",
      [](KernelBuilder& k) {
        const Buffer scales = k.input(DType::f32, "scales"), codes = k.input(DType::u8, "codes");
        const Buffer x = k.output(DType::f32, "x");
        const Expr n = k.size("n"), blocks = k.size("blocks");
        for_each_block(k, n, kInt4Block, blocks, [&](Expr b, Expr first, Expr count) {
          k.range("i", count, [&](Expr i) {
            const Expr byte = cast(DType::i32, codes[b * (kInt4Block / 2) + i / 2]);
            const Expr four = (byte >> (cast(DType::i32, i % 2) * i32(4))) & i32(15);
            x.store(first + i, scales[b] * cast(DType::f32, four - i32(8)));
          });
        });
      },
      "block:thread16 i:vec"};
  return kernel;
}

const KernelRunner::Definition& encode_sign() {
  static const KernelRunner::Definition kernel{
      "compress_sign",
      [](KernelBuilder& k) {
        const Buffer x = k.input(DType::f32, "x");
        const Buffer scales = k.output(DType::f32, "scales"), signs = k.output(DType::u8, "signs");
        const Expr n = k.size("n"), blocks = k.size("blocks");
        for_each_block(k, n, kSignBlock, blocks, [&](Expr b, Expr first, Expr count) {
          const Expr total = k.sum("k", count, DType::f32, [&](Expr i) { return dsl::abs(x[first + i]); });
          scales.store(b, total / cast(DType::f32, count));
          k.range("byte", (count + 7) / 8, [&](Expr j) {
            Expr bits = i32(0);
            for (int bit = 0; bit < 8; ++bit) {
              const Expr i = j * 8 + bit;
              bits = bits | select(x.load(first + i, i < count, 0) < f32(0.0), i32(1 << bit), i32(0));
            }
            signs.store(b * (kSignBlock / 8) + j, cast(DType::u8, bits));
          });
        });
      },
      "block:thread16 byte:vec"};
  return kernel;
}

const KernelRunner::Definition& decode_sign() {
  static const KernelRunner::Definition kernel{
      "decompress_sign",
      [](KernelBuilder& k) {
        const Buffer scales = k.input(DType::f32, "scales"), signs = k.input(DType::u8, "signs");
        const Buffer x = k.output(DType::f32, "x");
        const Expr n = k.size("n"), blocks = k.size("blocks");
        for_each_block(k, n, kSignBlock, blocks, [&](Expr b, Expr first, Expr count) {
          k.range("i", count, [&](Expr i) {
            const Expr byte = cast(DType::i32, signs[b * (kSignBlock / 8) + i / 8]);
            const Expr negative = ((byte >> cast(DType::i32, i % 8)) & i32(1)) != i32(0);
            x.store(first + i, select(negative, -scales[b], scales[b]));
          });
        });
      },
      "block:thread16 i:vec"};
  return kernel;
}

const KernelRunner::Definition& encode_topk() {
  static const KernelRunner::Definition kernel{
      "compress_topk",
      [](KernelBuilder& k) {
        const Buffer x = k.input(DType::f32, "x");
        const Buffer scales = k.in_out(DType::f32, "scales"), positions = k.output(DType::i32, "positions");
        const Buffer codes = k.output(DType::i8, "codes");
        const Expr n = k.size("n"), blocks = k.size("blocks");
        for_each_block(k, n, kTopkBlock, blocks, [&](Expr b, Expr first, Expr count) {
          const Expr kept = cast(DType::i32, kept_of(count));
          // Magnitudes in the order of their bit patterns.
          const auto magnitude = [&](Expr i) { return dsl::bitcast(DType::u32, x[first + i]) & u32(0x7fffffff); };
          const Buffer histogram = k.scratch(DType::i32, "histogram", 256);
          const Buffer least = k.scratch(DType::u32, "least", 1);    // the smallest magnitude kept, digit by digit
          const Buffer wanted = k.scratch(DType::i32, "wanted", 1);  // of those whose higher digits are least's
          const Buffer digit = k.scratch(DType::i32, "digit", 1), above = k.scratch(DType::i32, "above", 1);
          const Buffer written = k.scratch(DType::i32, "written", 1);
          least.store(0, u32(0));
          wanted.store(0, kept);
          k.serial("place", 4, [&](Expr place) {
            const Expr shift = cast(DType::u32, (Expr(3) - place) * 8);
            k.serial("clear", 256, [&](Expr d) { histogram.store(d, i32(0)); });
            k.serial("count", count, [&](Expr i) {
              const Expr fits = (((magnitude(i) ^ least[0]) >> shift) >> u32(8)) == u32(0);
              const Expr d = cast(DType::i64, (magnitude(i) >> shift) & u32(255));
              histogram.store(d, histogram[d] + select(fits, i32(1), i32(0)));
            });
            digit.store(0, i32(-1));
            above.store(0, i32(0));
            k.serial("down", 256, [&](Expr down) {
              const Expr d = Expr(255) - down, here = histogram[d];
              const Expr found = (digit[0] < i32(0)) & (above[0] + here >= wanted[0]);
              digit.store(0, select(found, cast(DType::i32, d), digit[0]));
              above.store(0, above[0] + select(digit[0] < i32(0), here, i32(0)));
            });
            least.store(0, least[0] | (cast(DType::u32, digit[0]) << shift));
            wanted.store(0, wanted[0] - above[0]);
          });
          written.store(0, i32(0));
          scales.store(b, largest_magnitude(k, x, first, count) / f32(127.0));
          k.serial("i", count, [&](Expr i) {
            const Expr tied = (magnitude(i) == least[0]) & (wanted[0] > i32(0));
            const Expr taken = (magnitude(i) > least[0]) | tied;
            const Expr at = b * kTopkKept + cast(DType::i64, written[0]);
            positions.store(at, cast(DType::i32, i), taken);
            codes.store(at, cast(DType::i8, code_of(x[first + i], scales[b], 127.0)), taken);
            written.store(0, written[0] + select(taken, i32(1), i32(0)));
            wanted.store(0, wanted[0] - select(tied, i32(1), i32(0)));
          });
        });
      },
      "block:thread"};
  return kernel;
}

const KernelRunner::Definition& decode_topk() {
  static const KernelRunner::Definition kernel{
      "decompress_topk",
      [](KernelBuilder& k) {
        const Buffer scales = k.input(DType::f32, "scales"), positions = k.input(DType::i32, "positions");
        const Buffer codes = k.input(DType::i8, "codes"), x = k.output(DType::f32, "x");
        const Expr n = k.size("n"), blocks = k.size("blocks");
        for_each_block(k, n, kTopkBlock, blocks, [&](Expr b, Expr first, Expr count) {
          k.range("i", count, [&](Expr i) { x.store(first + i, f32(0.0)); });
          k.serial("entry", kept_of(count), [&](Expr e) {
            const Expr at = b * kTopkKept + e;
            x.store(first + cast(DType::i64, positions[at]), scales[b] * cast(DType::f32, codes[at]));
          });
        });
      },
      "block:thread i:vec"};
  return kernel;
}

const KernelRunner::Definition& pack_positions() {
  static const KernelRunner::Definition kernel{
      "pack_positions",
      [](KernelBuilder& k) {
        const Buffer positions = k.input(DType::i32, "positions"), packed = k.output(DType::u8, "packed");
        const Expr kept = k.size("kept");
        k.range("byte", (kept * 3 + 1) / 2, [&](Expr j) {
          // Byte j holds bits 8 j to 8 j + 7 of the string of 12-bit numbers.
          const Expr pair = j / 3, part = j % 3;
          const Expr low = positions[pair * 2], has_high = pair * 2 + 1 < kept;
          const Expr high = positions.load(pair * 2 + 1, has_high, 0);
          const Expr both = low | (high << i32(12));
          packed.store(j, cast(DType::u8, (both >> (cast(DType::i32, part) * i32(8))) & i32(255)));
        });
      },
      "byte:thread1024"};
  return kernel;
}

const KernelRunner::Definition& unpack_positions() {
  static const KernelRunner::Definition kernel{
      "unpack_positions",
      [](KernelBuilder& k) {
        const Buffer packed = k.input(DType::u8, "packed"), positions = k.output(DType::i32, "positions");
        const Expr kept = k.size("kept");
        k.range("i", kept, [&](Expr i) {
          const Expr bit = i * 12;
          const Expr two = cast(DType::i32, packed[bit / 8]) | (cast(DType::i32, packed[bit / 8 + 1]) << i32(8));
          positions.store(i, (two >> cast(DType::i32, bit % 8)) & i32(4095));
        });
      },
      "i:thread1024"};
  return kernel;
}

}  // namespace sporkle::train::kernels
