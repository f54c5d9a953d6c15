// Matrix products of bf16 with f32 sums, for `fast`: C[..., m, n] = sum over k of A[..., m, k] * B[..., k, n].
//
// Two neighbours along k are one word, so that a processor with AVX512_BF16 multiplies and adds both at once (ir::Op::
// dot); others widen them to f32. The structure is that of matmul.cc: a tile of C belongs to one iteration of the
// thread loop, which packs its panel of B into scratch (words [k / 2, columns]) and multiplies rows of A with it. A is
// read in place where its rows hold whole words, else packed into words once for all tiles. An odd k ends with a zero
// in either factor.
#include "codegen/cpu_target.h"
#include "tensor/context.h"
#include "tensor/launch.h"

namespace sporkle::tensor {
namespace {

// A register tile: rows of A times vectors of B.
struct TilePreset {
  int vector_width;  // of f32
  bool has_dot;      // the processor multiplies pairs
  int vectors, rows;
};
constexpr TilePreset kPresets[] = {
    {16, true, 4, 5},  {16, true, 2, 10}, {16, true, 1, 10},  // AVX-512 with bf16
    {16, false, 4, 4}, {16, false, 2, 8}, {16, false, 1, 8},  // AVX-512: the halves of B's words take registers too
    {8, false, 2, 4},  {8, false, 1, 5},                      // AVX2
    {4, false, 2, 3},  {4, false, 1, 4},                      // SSE2, NEON
};

constexpr int64_t kFewRows = 4;
constexpr int64_t kPassWords = 2048;  // of one column of a panel: a longer k is split evenly into passes
constexpr int64_t kMinRows = 48;      // of a tile of C, before more tiles are made for the sake of more threads

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Product {
  int batch_axes;
  Strides a;  // over [batch..., m, word], in words
  Strides b;  // over [batch..., k, n], in elements; where `b_words`, over [batch..., word, n], in words
  Strides c;  // over [batch..., m, n]
  DType result;
  bool b_words;    // neighbours along k lie side by side in B as well
  bool direct;     // B's words are made where they are used
  int columns;     // of a panel
  bool edge;       // the last panel may have fewer
  bool odd;        // the last word has one element
  bool continues;  // the sum starts from C
  const Program* epilogue;
};

// Two bf16 as one word, the first in its low half.
dsl::Expr word_of(dsl::Expr first, dsl::Expr second) {
  const auto upper_half = [](dsl::Expr value) { return dsl::bitcast(DType::u32, dsl::cast(DType::f32, value)); };
  return (upper_half(first) >> 16) | upper_half(second);
}

dsl::Expr zero() { return dsl::constant(DType::bf16, 0.0); }

ir::Kernel trace(const Product& p) {
  return dsl::trace(
      "matmul_bf16",
      [&](dsl::KernelBuilder& k) {
        const dsl::Buffer a = k.input(DType::u32, "a"), b = k.input(p.b_words ? DType::u32 : DType::bf16, "b");
        std::optional<ProgramCode> epilogue;
        if (p.epilogue) epilogue.emplace(*p.epilogue).declare_buffers(k);
        const dsl::Buffer c = p.continues ? k.in_out(p.result, "c") : k.output(p.result, "c");

        std::vector<dsl::Expr> batch_extents;
        for (int i = 0; i < p.batch_axes; ++i) batch_extents.push_back(k.size("batch" + std::to_string(i)));
        const dsl::Expr rows = k.size("rows"), columns = k.size("columns"), depth = k.size("depth");
        const dsl::Expr block_rows = k.size("block_rows");
        const std::vector<dsl::Expr> a_strides = declare_strides(k, p.a, "a"), b_strides = declare_strides(k, p.b, "b"),
                                     c_strides = declare_strides(k, p.c, "c");
        if (epilogue) epilogue->declare_scalars(k);

        const dsl::Expr width(p.columns), words = (depth + 1) / 2;
        const dsl::Expr row_blocks = (rows + block_rows - 1) / block_rows,
                        column_blocks = (columns + width - 1) / width;
        dsl::Expr tiles = row_blocks * column_blocks;
        for (const dsl::Expr extent : batch_extents) tiles = tiles * extent;
        k.range("tile", tiles, [&](dsl::Expr tile) {
          const dsl::Expr first_row = tile % row_blocks * block_rows;
          tile = tile / row_blocks;
          const dsl::Expr first_column = tile % column_blocks * width;
          tile = tile / column_blocks;
          std::vector<dsl::Expr> batch(batch_extents.size());
          for (size_t i = batch.size(); i-- > 0;) {
            batch[i] = i == 0 ? tile : tile % batch_extents[i];
            tile = tile / batch_extents[i];
          }
          const auto at = [&](dsl::Expr i, dsl::Expr j) {
            std::vector<dsl::Expr> indices = batch;
            indices.push_back(i);
            indices.push_back(j);
            return indices;
          };
          // Word `i` of a column of the panel; `inside`: whether there is such a column, where that is a question.
          const auto b_word = [&](dsl::Expr i, dsl::Expr column, const dsl::Expr* inside) {
            if (p.b_words) {
              const dsl::Expr from = affine(p.b, b_strides, at(i, first_column + column));
              return inside ? b.load(from, *inside, dsl::constant(DType::u32, 0)) : b[from];
            }
            const auto element = [&](dsl::Expr depth_index, const dsl::Expr* mask) {
              const dsl::Expr from = affine(p.b, b_strides, at(depth_index, first_column + column));
              return mask ? b.load(from, *mask, zero()) : b[from];
            };
            const dsl::Expr second = i * 2 + 1;
            if (!p.odd) return word_of(element(i * 2, inside), element(second, inside));
            const dsl::Expr exists = second < depth, both = inside ? *inside & exists : exists;
            return word_of(element(i * 2, inside), element(second, &both));
          };
          const dsl::Expr tile_rows = dsl::min(block_rows, rows - first_row);

          // One element of C; `factor` gives B's words.
          const auto element = [&](dsl::Expr row, dsl::Expr column, const std::function<dsl::Expr(dsl::Expr)>& factor) {
            const std::vector<dsl::Expr> position = at(first_row + row, first_column + column);
            const dsl::Expr c_index = affine(p.c, c_strides, position);
            const dsl::Expr start = p.continues ? c[c_index] : dsl::constant(DType::f32, 0.0);
            const dsl::Expr product = k.dot_chain("k", words, start, [&](dsl::Expr i) {
              return std::pair(a[affine(p.a, a_strides, at(first_row + row, i))], factor(i));
            });
            c.store(c_index, epilogue ? epilogue->evaluate(k, position, &product) : product);
          };

          if (p.direct) {
            k.range("m", tile_rows, [&](dsl::Expr row) {
              k.range("n", dsl::min(width, columns - first_column), [&](dsl::Expr column) {
                element(row, column, [&](dsl::Expr i) { return b_word(i, column, nullptr); });
              });
            });
            return;
          }
          const dsl::Buffer panel = k.scratch(DType::u32, "panel", words * width);
          k.range("pack_k", words, [&](dsl::Expr i) {
            k.range("pack_n", width, [&](dsl::Expr column) {
              const dsl::Expr inside = first_column + column < columns;
              panel.store(i * width + column, b_word(i, column, p.edge ? &inside : nullptr));
            });
          });
          const auto multiply = [&](std::string_view column_range, dsl::Expr count) {
            k.range("m", tile_rows, [&](dsl::Expr row) {
              k.range(column_range, count, [&](dsl::Expr column) {
                element(row, column, [&](dsl::Expr i) { return panel[i * width + column]; });
              });
            });
          };
          if (!p.edge) return multiply("n", width);
          const dsl::Expr left = columns - first_column, whole = dsl::min(left / width, dsl::Expr(1));
          k.range("whole", whole, [&](dsl::Expr) { multiply("n", width); });
          k.range("partial", dsl::Expr(1) - whole, [&](dsl::Expr) { multiply("edge", left); });
        });
      },
      ir::Numerics::fast);
}

// Words [outer, inner], where one of the two runs over words of k and the other over rows, from elements with any
// strides. Every axis in front of them is part of `outer`.
ir::Kernel trace_pack(const Strides& strides, bool words_inside, bool odd) {
  return dsl::trace(
      "pack_bf16",
      [&](dsl::KernelBuilder& k) {
        const dsl::Buffer x = k.input(DType::bf16, "x"), y = k.output(DType::u32, "y");
        const int batch_axes = strides.rank() - 2;
        std::vector<dsl::Expr> extents;
        for (int i = 0; i < batch_axes; ++i) extents.push_back(k.size("batch" + std::to_string(i)));
        const dsl::Expr rows = k.size("rows"), depth = k.size("depth"), words = (depth + 1) / 2;
        const std::vector<dsl::Expr> scalars = declare_strides(k, strides, "x");
        const dsl::Expr outer_extent = words_inside ? rows : words, inner_extent = words_inside ? words : rows;
        dsl::Expr count = outer_extent;
        for (const dsl::Expr extent : extents) count = count * extent;
        k.range("outer", count, [&](dsl::Expr outer) {
          std::vector<dsl::Expr> indices(extents.size() + 2);
          const dsl::Expr middle = batch_axes > 0 ? outer % outer_extent : outer;
          dsl::Expr rest = outer / outer_extent;
          for (size_t i = extents.size(); i-- > 0;) {
            indices[i] = i == 0 ? rest : rest % extents[i];
            rest = rest / extents[i];
          }
          k.range("inner", inner_extent, [&](dsl::Expr inner) {
            const dsl::Expr word = words_inside ? inner : middle;
            indices[extents.size()] = words_inside ? middle : inner;
            const auto element = [&](dsl::Expr at, bool masked) {
              indices[extents.size() + 1] = at;
              const dsl::Expr from = affine(strides, scalars, indices);
              return masked ? x.load(from, at < depth, zero()) : x[from];
            };
            y.store(outer * inner_extent + inner, word_of(element(word * 2, false), element(word * 2 + 1, odd)));
          });
        });
      },
      ir::Numerics::fast);
}

// A in words: where they lie, and how an access moves through them.
struct Words {
  hal::Binding binding;
  Strides strides;
  std::shared_ptr<Storage> packed;  // where they had to be made; must live until the product is recorded
};

// Whether neighbours along the axis of k (`depth` elements) lie side by side at even places, so that memory holds
// words.
bool holds_words(const MatrixOperand& operand, int k_axis, int64_t depth) {
  const Strides& strides = operand.view.strides;
  bool whole = depth % 2 == 0 && strides[k_axis] == 1 && operand.view.offset % 2 == 0;
  for (int i = 0; i < strides.rank(); ++i) whole = whole && (i == k_axis || strides[i] % 2 == 0);
  return whole;
}

Strides in_words(Strides strides, int k_axis) {
  for (int i = 0; i < strides.rank(); ++i)
    if (i != k_axis) strides[i] /= 2;
  return strides;
}

Result<Words> words_of(Launcher& launcher, const MatrixOperand& operand, const Shape& batch, int64_t rows,
                       int64_t depth) {
  const Strides& strides = operand.view.strides;
  const int rank = strides.rank();
  if (holds_words(operand, rank - 1, depth))
    return Words{{operand.base->storage->buffer(), static_cast<uint64_t>(2 * operand.view.offset)},
                 in_words(strides, rank - 1),
                 nullptr};
  // Neighbours along the rows are packed side by side.
  const bool words_inside = strides[rank - 2] != 1;
  const int64_t words = divide_up(depth, 2), batches = element_count(batch);
  std::shared_ptr<Storage> storage = launcher.allocate(static_cast<size_t>(4 * batches * rows * words));
  Words result{{storage->buffer(), 0}, strides, storage};
  result.strides[rank - 1] = words_inside ? 1 : rows;
  result.strides[rank - 2] = words_inside ? words : 1;
  int64_t stride = rows * words;
  for (int i = rank - 3; i >= 0; --i) {
    result.strides[i] = stride;
    stride *= batch[i];
  }
  const bool odd = depth % 2 != 0;
  Scalars scalars;
  for (const int64_t extent : batch) scalars.push_back(static_cast<uint64_t>(extent));
  scalars.push_back(static_cast<uint64_t>(rows));
  scalars.push_back(static_cast<uint64_t>(depth));
  append_strides(strides, &scalars);
  const std::string key =
      "pack bf16 " + stride_classes(strides) + (words_inside ? " words" : " rows") + (odd ? " odd" : "");
  SPORKLE_RETURN_IF_ERROR(launcher.dispatch(
      key, "outer:thread inner:vec", [&] { return trace_pack(strides, words_inside, odd); },
      {{operand.base->storage->buffer(), static_cast<uint64_t>(2 * operand.view.offset)}, result.binding},
      std::move(scalars)));
  return result;
}

TilePreset choose_preset(Context& context, int64_t columns) {
  const auto target = codegen::CpuTarget::parse(context.device().info().target);
  const bool has_dot = target.ok() && target->bf16;
  TilePreset best{};
  for (const TilePreset& preset : kPresets) {
    if (preset.vector_width != context.vector_width() || preset.has_dot != has_dot) continue;
    if (best.rows == 0 || int64_t{preset.vector_width} * preset.vectors >= columns) best = preset;
  }
  return best;
}

}  // namespace

Status launch_low_precision_matmul(Launcher& launcher, const Step& step) {
  Context& context = launcher.context();
  const Node* node = step.node;
  Node* result = step.results[0];
  if (node->count() == 0) return {};
  const Shape& shape = node->shape;
  const int rank = shape.rank();
  const int64_t rows = shape[rank - 2], columns = shape[rank - 1], depth = node->inputs[0]->shape[rank - 1];
  const Shape batch(std::span(shape.begin(), shape.end() - 2));
  SPORKLE_ASSIGN_OR_RETURN(const Words a, words_of(launcher, step.a, batch, rows, depth));

  Product product{rank - 2, a.strides, step.b.view.strides, step.result_strides, result->dtype};
  // The stride of an axis of one element is of no consequence; the usual one keeps kernels few.
  if (columns == 1) product.b[rank - 1] = 1;
  product.b_words = product.b[rank - 1] != 1 && holds_words(step.b, rank - 2, depth);
  if (product.b_words) product.b = in_words(product.b, rank - 2);
  product.direct = rows <= kFewRows && product.b[rank - 1] == 1 && !product.b_words;
  TilePreset preset = choose_preset(context, columns);
  if (rows == 1) preset.vectors *= 2;
  const int lanes = preset.vector_width;
  product.columns = lanes * preset.vectors;
  product.edge = !product.direct && columns % product.columns != 0;

  const std::string vectors =
      "vec" + std::to_string(lanes) + (preset.vectors > 1 ? "x" + std::to_string(preset.vectors) : std::string());
  std::string schedule = "tile:thread";
  if (product.direct)
    schedule += " m:tile4 n:" + vectors;
  else
    schedule += " pack_n:" + vectors + " m:tile" + std::to_string(preset.rows) + " n:" + vectors;
  if (product.edge) schedule += " edge:vec" + std::to_string(lanes) + (preset.vectors > 1 ? "x2" : "");
  schedule += " k:unroll4";

  // Enough tiles for every thread, as long as a tile has enough rows to pay for its panel.
  const int64_t panels = element_count(batch) * divide_up(columns, product.columns);
  const int64_t tiles = 4 * int64_t{context.device().info().threads};
  int64_t block_rows = rows;
  if (!product.direct && panels < tiles)
    block_rows = std::min(
        rows, std::max(kMinRows, divide_up(divide_up(rows, divide_up(tiles, panels)), preset.rows) * preset.rows));

  // Sums that go on in C need C to hold them.
  const int64_t words = divide_up(depth, 2);
  const bool one_pass = product.direct || result->dtype != DType::f32;
  const int64_t passes = one_pass ? 1 : std::max<int64_t>(divide_up(words, kPassWords), 1);
  const int64_t pass_depth = 2 * divide_up(words, passes);
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t first = pass * pass_depth, now = std::min(pass_depth, depth - first);
    product.continues = pass > 0;
    product.odd = now % 2 != 0;
    product.epilogue = pass == passes - 1 && step.program.result >= 0 ? &step.program : nullptr;
    std::string key = "matmul bf16 " + std::string(ir::dtype_name(product.result)) + " " + stride_classes(product.a) +
                      " " + stride_classes(product.b) + " " + stride_classes(product.c) + " " +
                      std::to_string(product.columns);
    key += product.direct ? " direct" : product.edge ? " packed with an edge" : " packed";
    if (product.b_words) key += " words";
    if (product.odd) key += " odd";
    if (product.continues) key += " continued";
    if (product.epilogue) key += " " + ProgramCode::key(*product.epilogue);

    std::vector<hal::Binding> bindings{a.binding, {step.b.base->storage->buffer(), 0}};
    bindings[0].offset_bytes += static_cast<uint64_t>(4 * (first / 2) * product.a[rank - 1]);
    bindings[1].offset_bytes = static_cast<uint64_t>(2 * (step.b.view.offset + first * step.b.view.strides[rank - 2]));
    if (product.epilogue) ProgramCode::append_bindings(*product.epilogue, &bindings);
    bindings.push_back({result->storage->buffer(), 0});
    Scalars scalars;
    for (const int64_t extent : batch) scalars.push_back(static_cast<uint64_t>(extent));
    for (const int64_t value : {rows, columns, now, block_rows}) scalars.push_back(static_cast<uint64_t>(value));
    append_strides(product.a, &scalars);
    append_strides(product.b, &scalars);
    append_strides(product.c, &scalars);
    if (product.epilogue) ProgramCode::append_scalars(*product.epilogue, &scalars);
    SPORKLE_RETURN_IF_ERROR(launcher.dispatch(
        key, schedule, [&] { return trace(product); }, std::move(bindings), std::move(scalars)));
  }
  return {};
}

}  // namespace sporkle::tensor
