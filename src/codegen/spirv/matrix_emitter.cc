#include "codegen/spirv/matrix_emitter.h"

#include <algorithm>
#include <array>

#include "codegen/spirv/units_emitter.h"

namespace sporkle::codegen::spirv {
namespace {

using ir::DType;
using ir::Node;
using SpvOp = spv::Op;

constexpr uint32_t kGroupRows = 8;  // row tiles that are worked through side by side, so that they share B in the cache

// An operand as its memory has it: lines of elements side by side.
struct Lines {
  const MatrixAccess* access;
  bool transposed;     // a line is a column of the operand's matrix
  const Node* stride;  // from a line to the next
};

class MatrixEmitter : private UnitsEmitter {
 public:
  MatrixEmitter(const ir::Kernel& kernel, const MatrixProduct& product, const MatrixTile& tile,
                const VulkanTarget& target)
      : UnitsEmitter(kernel, target), p_(product), t_(tile) {}

  Result<GpuCode> run();

 private:
  Status check();
  // The device address of the operand's matrix of this batch.
  Id address(const MatrixAccess& access);
  void find_tile();

  struct Staged {
    Lines lines;
    bool along_depth = false;  // lines run along k, and stand side by side across the tile
    Id address = 0;
    const Node* across_extent = nullptr;
    Id first_across = 0;
    uint32_t tile_lines = 0, line_vectors = 0, pitch = 0;  // of the tile; vectors of 16 bytes
    bool whole = false;                                    // no tile goes beyond the matrix
    Id memory = 0;                                         // in the workgroup
    std::vector<Id> next;                                  // variables: an invocation's vectors on their way
    Id from = 0;                                           // variable, where whole: the address of the first of them
  };
  Staged staged(const Lines& lines, uint32_t across, const Node* across_extent, Id first_across);
  // The block of k that begins at `first`; elements beyond the matrix are zeros. Whole tiles are fetched block after
  // block, whatever `first` is; `advances`: whether there is one more.
  void fetch(const Staged& staged, Id first, Id advances);
  void stage(const Staged& staged);
  Id piece(const Staged& staged, Id type, Id across, uint32_t k);
  // In elements, u64.
  Id offset(Id line, const Node* stride, Id element);
  void multiply();

  const MatrixProduct& p_;
  const MatrixTile& t_;
  Lines a_, b_, c_;
  DType type_ = DType::bf16;
  Id tile_number_ = 0, batch_ = 0, first_row_ = 0, first_column_ = 0;
};

Id MatrixEmitter::address(const MatrixAccess& access) {
  const Node* offset = access.base;
  Id elements = value(offset);
  // The batch's number, taken apart from the innermost.
  Id rest = s_.define(0, SpvOp::OpUConvert, m_.integer_type(64), {batch_});
  const Id u64 = m_.integer_type(64);
  for (size_t n = p_.batches.size(); n-- > 0;) {
    const Id extent = value(p_.batches[n]);
    const Id index = n == 0 ? rest : s_.define(0, SpvOp::OpUMod, u64, {rest, extent});
    if (n > 0) rest = s_.define(0, SpvOp::OpUDiv, u64, {rest, extent});
    elements = s_.define(0, SpvOp::OpIAdd, u64,
                         {elements, s_.define(0, SpvOp::OpIMul, u64, {index, value(access.batch_strides[n])})});
  }
  const auto size = static_cast<uint64_t>(ir::dtype_size(access.buffer->type));
  const Id bytes = s_.define(0, SpvOp::OpIMul, u64, {elements, m_.constant_u64(size)});
  return s_.define(0, SpvOp::OpIAdd, u64, {arguments_.bits(static_cast<size_t>(access.buffer->value)), bytes});
}

Status MatrixEmitter::check() {
  const auto refuse = [&](const std::string& why) { return unsupported("a product on matrix units: " + why); };
  type_ = p_.a.buffer->type;
  if (type_ != p_.b.buffer->type || (type_ != DType::bf16 && type_ != DType::f16))
    return refuse("its factors are " + std::string(ir::dtype_name(p_.a.buffer->type)) + " and " +
                  std::string(ir::dtype_name(p_.b.buffer->type)) + "; bf16 or f16 are taken");
  if (type_ == DType::bf16 ? !target_.matrix_bf16 : !target_.matrix_f16)
    return refuse("the device has none for " + std::string(ir::dtype_name(type_)) + " (VK_KHR_cooperative_matrix)");
  if (p_.c.buffer->type != DType::f32 && p_.c.buffer->type != type_)
    return refuse("the result is " + std::string(ir::dtype_name(p_.c.buffer->type)));
  const auto lines = [&](const MatrixAccess& access, Lines* to) {
    const bool transposed = !access.column_stride->is_constant(1);
    *to = {&access, transposed, transposed ? access.column_stride : access.row_stride};
    const auto multiple = static_cast<int64_t>(kMatrixAlignmentBytes) / ir::dtype_size(access.buffer->type);
    bool aligned = known_multiple(to->stride) % multiple == 0 && known_multiple(access.base) % multiple == 0;
    for (const Node* stride : access.batch_strides) aligned &= known_multiple(stride) % multiple == 0;
    return aligned && (!transposed || access.row_stride->is_constant(1));
  };
  if (!lines(p_.a, &a_) || !lines(p_.b, &b_) || !lines(p_.c, &c_) || c_.transposed)
    return refuse("its rows are not known to lie side by side and to begin at multiples of 16 bytes");
  const auto whole = [](const Node* extent, int64_t unit) { return known_multiple(extent) % unit == 0; };
  if (!whole(p_.rows, kPiece) || !whole(p_.columns, kPiece) || !whole(p_.depth, kVector))
    return refuse("its extents are not known to be multiples of 16 (of 8 along k)");
  return {};
}

// Which tile of C this workgroup makes: batch by batch, in groups of kGroupRows row tiles.
void MatrixEmitter::find_tile() {
  const auto tiles = [&](const Node* extent, uint32_t size) {
    return value32(builder_.div(builder_.add(extent, builder_.integer(size - 1)), builder_.integer(size)));
  };
  const Id rows = tiles(p_.rows, t_.rows), columns = tiles(p_.columns, t_.columns);
  const auto div = [&](Id a, Id b) { return i(SpvOp::OpUDiv, a, b); };
  const auto mod = [&](Id a, Id b) { return i(SpvOp::OpUMod, a, b); };
  const Id of_matrix = mul(rows, columns);
  batch_ = div(tile_number_, of_matrix);
  const Id within = mod(tile_number_, of_matrix);
  const Id of_group = mul(columns, c(kGroupRows));
  const Id first = mul(div(within, of_group), c(kGroupRows));
  const Id left = i(SpvOp::OpISub, rows, first);
  const Id height = s_.define(0, SpvOp::OpSelect, u32(), {less(left, c(kGroupRows)), left, c(kGroupRows)});
  const Id in_group = mod(within, of_group);
  first_row_ = mul(add(first, mod(in_group, height)), c(t_.rows));
  first_column_ = mul(div(in_group, height), c(t_.columns));
}

// ------------------------------------------------------------------------------------------------ tiles

Id MatrixEmitter::offset(Id line, const Node* stride, Id element) {
  const Id u64 = m_.integer_type(64);
  const int depth = s_.innermost();
  const auto widen = [&](Id narrow_id) { return s_.define(depth, SpvOp::OpUConvert, u64, {narrow_id}); };
  const Id start = s_.define(depth, SpvOp::OpIMul, u64, {widen(line), value(stride)});
  return s_.define(depth, SpvOp::OpIAdd, u64, {start, widen(element)});
}

MatrixEmitter::Staged MatrixEmitter::staged(const Lines& lines, uint32_t across, const Node* across_extent,
                                            Id first_across) {
  Staged result;
  result.lines = lines;
  result.along_depth = lines.transposed == (lines.access == &p_.b);
  result.address = address(*lines.access);
  result.across_extent = across_extent;
  result.first_across = first_across;
  result.tile_lines = result.along_depth ? across : t_.depth;
  result.line_vectors = (result.along_depth ? t_.depth : across) / kVector;
  result.pitch = result.line_vectors + 1;  // so that lines begin in different banks
  result.whole = known_multiple(across_extent) % across == 0 && known_multiple(p_.depth) % t_.depth == 0 &&
                 t_.invocations % result.line_vectors == 0;
  const Id vector = m_.vector_type(u32(), 4);
  const uint32_t vectors = result.tile_lines * result.pitch;
  result.memory = m_.global_variable(spv::StorageClass::Workgroup, m_.array_type(vector, vectors));
  shared_bytes_ += vectors * kMatrixAlignmentBytes;
  for (uint32_t n = 0; n < result.tile_lines * result.line_vectors / t_.invocations; ++n)
    result.next.push_back(variable(vector));
  value(lines.stride);  // before any branch that needs it
  if (!result.whole) return result;
  const Id line = i(SpvOp::OpUDiv, local_, c(result.line_vectors));
  const Id element = mul(i(SpvOp::OpUMod, local_, c(result.line_vectors)), c(kVector));
  const Id elements = result.along_depth ? offset(add(first_across, line), lines.stride, element)
                                         : offset(line, lines.stride, add(first_across, element));
  const Id u64 = m_.integer_type(64);
  result.from = variable(u64);
  const Id bytes = s_.define(0, SpvOp::OpIMul, u64, {elements, m_.constant_u64(2)});
  s_.line(0, SpvOp::OpStore, {result.from, s_.define(0, SpvOp::OpIAdd, u64, {result.address, bytes})});
  return result;
}

void MatrixEmitter::fetch(const Staged& staged, Id first, Id advances) {
  const Id vector = m_.vector_type(u32(), 4), u64 = m_.integer_type(64);
  const int depth = s_.innermost();
  if (staged.whole) {
    const auto times_stride = [&](uint64_t lines) {
      return s_.define(depth, SpvOp::OpIMul, u64, {value(staged.lines.stride), m_.constant_u64(2 * lines)});
    };
    Id address = s_.define(depth, SpvOp::OpLoad, u64, {staged.from});
    // Behind the last block the same again, for nothing.
    const Id step = staged.along_depth ? m_.constant_u64(2 * t_.depth) : times_stride(t_.depth);
    const Id moved = s_.define(depth, SpvOp::OpSelect, u64, {advances, step, m_.constant_u64(0)});
    s_.line(depth, SpvOp::OpStore, {staged.from, s_.define(depth, SpvOp::OpIAdd, u64, {address, moved})});
    const Id between = times_stride(t_.invocations / staged.line_vectors);
    for (const Id next : staged.next) {
      s_.line(depth, SpvOp::OpStore, {next, read_vector(address)});
      address = s_.define(depth, SpvOp::OpIAdd, u64, {address, between});
    }
    return;
  }
  const Id across_end = value32(staged.across_extent), depth_end = value32(p_.depth);
  for (size_t n = 0; n < staged.next.size(); ++n) {
    const Id at = add(local_, c(static_cast<uint32_t>(n) * t_.invocations));
    const Id line = i(SpvOp::OpUDiv, at, c(staged.line_vectors));
    const Id element = mul(i(SpvOp::OpUMod, at, c(staged.line_vectors)), c(kVector));
    const Id across = add(staged.first_across, staged.along_depth ? line : element);
    const Id k = add(first, staged.along_depth ? element : line);
    const Id inside =
        s_.define(depth, SpvOp::OpLogicalAnd, m_.bool_type(), {less(across, across_end), less(k, depth_end)});
    const Id loaded = s_.choose(depth, inside, vector, m_.null(vector), [&] {
      const Id elements =
          staged.along_depth ? offset(across, staged.lines.stride, k) : offset(k, staged.lines.stride, across);
      const Id bytes = s_.define(depth, SpvOp::OpIMul, u64, {elements, m_.constant_u64(2)});
      return read_vector(s_.define(depth, SpvOp::OpIAdd, u64, {staged.address, bytes}));
    });
    s_.line(depth, SpvOp::OpStore, {staged.next[n], loaded});
  }
}

void MatrixEmitter::stage(const Staged& staged) {
  const Id vector = m_.vector_type(u32(), 4), type = m_.pointer_type(spv::StorageClass::Workgroup, vector);
  const int depth = s_.innermost();
  for (size_t n = 0; n < staged.next.size(); ++n) {
    const Id at = add(local_, c(static_cast<uint32_t>(n) * t_.invocations));
    const Id place = add(mul(i(SpvOp::OpUDiv, at, c(staged.line_vectors)), c(staged.pitch)),
                         i(SpvOp::OpUMod, at, c(staged.line_vectors)));
    const Id to = s_.define(depth, SpvOp::OpAccessChain, type, {staged.memory, place});
    s_.line(depth, SpvOp::OpStore, {to, s_.define(depth, SpvOp::OpLoad, vector, {staged.next[n]})});
  }
}

// The 16 x 16 piece of a staged tile at `across` (a multiple of 16) and `k`.
Id MatrixEmitter::piece(const Staged& staged, Id type, Id across, uint32_t k) {
  const int depth = s_.innermost();
  const Id line = staged.along_depth ? across : c(k);
  const Id element = staged.along_depth ? c(k) : across;
  const Id place = add(mul(line, c(staged.pitch)), i(SpvOp::OpUDiv, element, c(kVector)));
  const Id from =
      s_.define(depth, SpvOp::OpAccessChain, m_.pointer_type(spv::StorageClass::Workgroup, m_.vector_type(u32(), 4)),
                {staged.memory, place});
  const auto order = staged.lines.transposed ? cooperative::Layout::column_major : cooperative::Layout::row_major;
  return s_.define(depth, cooperative::OpLoad, type, {from, c(number(order)), c(staged.pitch)});
}

void MatrixEmitter::multiply() {
  find_invocation();
  // Subgroups in a grid as square as it can be, each with pieces of its own.
  const uint32_t subgroups = t_.invocations / target_.subgroup;
  uint32_t across = 1;
  while (across * across * 4 <= subgroups * t_.columns / t_.rows * 2) across *= 2;
  across = std::min(across, subgroups);
  const uint32_t own_rows = t_.rows / (subgroups / across) / kPiece, own_columns = t_.columns / across / kPiece;
  const Id own_row = mul(i(SpvOp::OpUDiv, subgroup_, c(across)), c(own_rows * kPiece));
  const Id own_column = mul(i(SpvOp::OpUMod, subgroup_, c(across)), c(own_columns * kPiece));

  const Id of_a = matrix_type(type_, Use::a), of_b = matrix_type(type_, Use::b);
  const Id of_c = matrix_type(DType::f32, Use::accumulator);
  std::vector<Id> sums;
  for (uint32_t n = 0; n < own_rows * own_columns; ++n) {
    sums.push_back(variable(of_c));
    s_.line(0, SpvOp::OpStore, {sums.back(), m_.null(of_c)});
  }
  const Staged a = staged(a_, t_.rows, p_.rows, first_row_), b = staged(b_, t_.columns, p_.columns, first_column_);
  const Id k_end = value32(p_.depth);
  const auto fetch_both = [&](Id first) {
    const Id advances = less(add(first, c(t_.depth)), k_end);
    fetch(a, first, advances);
    fetch(b, first, advances);
  };
  fetch_both(c(0));
  std::vector<Scopes::Carried> none;
  s_.counted_loop(0, m_.constant_u64(0), value(p_.depth), m_.constant_u64(t_.depth), none, [&](Id index) {
    const int depth = s_.innermost();
    barrier();
    stage(a);
    stage(b);
    barrier();
    fetch_both(add(narrow(depth, index), c(t_.depth)));
    for (uint32_t k = 0; k < t_.depth; k += kPiece) {
      std::vector<Id> left, right;
      for (uint32_t r = 0; r < own_rows; ++r) left.push_back(piece(a, of_a, add(own_row, c(r * kPiece)), k));
      for (uint32_t n = 0; n < own_columns; ++n) right.push_back(piece(b, of_b, add(own_column, c(n * kPiece)), k));
      for (uint32_t r = 0; r < own_rows; ++r)
        for (uint32_t n = 0; n < own_columns; ++n) {
          const Id sum = sums[r * own_columns + n];
          const Id before = s_.define(depth, SpvOp::OpLoad, of_c, {sum});
          s_.line(depth, SpvOp::OpStore,
                  {sum, s_.define(depth, cooperative::OpMulAdd, of_c, {left[r], right[n], before})});
        }
    }
  });
  const DType to_type = c_.access->buffer->type;
  const Id to_address = address(*c_.access), rows = value32(p_.rows), columns = value32(p_.columns);
  const Id row_elements = value32(c_.stride);
  const Id element = to_type == DType::f32 ? m_.float_type(32) : element_type(to_type);
  const auto size = static_cast<uint32_t>(ir::dtype_size(to_type));
  for (uint32_t r = 0; r < own_rows; ++r)
    for (uint32_t n = 0; n < own_columns; ++n) {
      const Id row = add(add(first_row_, own_row), c(r * kPiece));
      const Id column = add(add(first_column_, own_column), c(n * kPiece));
      const Id inside = s_.define(0, SpvOp::OpLogicalAnd, m_.bool_type(), {less(row, rows), less(column, columns)});
      s_.when(0, inside, [&] {
        const Id u64 = m_.integer_type(64);
        const Id bytes = s_.define(0, SpvOp::OpIMul, u64, {offset(row, c_.stride, column), m_.constant_u64(size)});
        const Id to = pointer(element, size, s_.define(0, SpvOp::OpIAdd, u64, {to_address, bytes}));
        Id sum = s_.define(0, SpvOp::OpLoad, of_c, {sums[r * own_columns + n]});
        if (to_type != DType::f32) sum = s_.define(0, SpvOp::OpFConvert, matrix_type(to_type, Use::accumulator), {sum});
        s_.line(0, cooperative::OpStore,
                {to, sum, c(number(cooperative::Layout::row_major)), row_elements,
                 number(spv::MemoryAccessMask::Aligned), kMatrixAlignmentBytes});
      });
    }
}

// ------------------------------------------------------------------------------------------------ module

Result<GpuCode> MatrixEmitter::run() {
  SPORKLE_RETURN_IF_ERROR(check());
  declare_units(type_);
  tile_number_ = narrow(0, begin_function());
  find_tile();
  multiply();
  const auto tiles = [&](const Node* extent, uint32_t size) {
    return builder_.div(builder_.add(extent, builder_.integer(size - 1)), builder_.integer(size));
  };
  const Node* iterations = builder_.mul(tiles(p_.rows, t_.rows), tiles(p_.columns, t_.columns));
  for (const Node* batch : p_.batches) iterations = builder_.mul(iterations, batch);
  return finish(t_.invocations, iterations);
}

}  // namespace

MatrixTile choose_matrix_tile(const MatrixProduct& product, const VulkanTarget& target,
                              const lower::Schedule& schedule) {
  // With half of the depth where there is less memory: 64 needs 47.5 KiB.
  MatrixTile tile = {128, 128, target.shared_kib >= 48 ? 64u : 32u, 128};
  for (const lower::ScheduleItem& item : schedule.items) {
    if (item.kind != lower::ScheduleItem::Kind::matrix) continue;
    for (const auto& [range, size] : {std::pair(product.row_range, &tile.rows),
                                      {product.column_range, &tile.columns},
                                      {product.depth_range, &tile.depth}})
      if (item.range == range) *size = static_cast<uint32_t>(item.size);
  }
  if (tile.rows * tile.columns <= 64 * 128) tile.invocations = 128;
  tile.invocations = std::min(tile.invocations, target.workgroup);
  return tile;
}

Result<GpuCode> emit_matrix_product(const ir::Kernel& kernel, const MatrixProduct& product, const MatrixTile& tile,
                                    const VulkanTarget& target) {
  return MatrixEmitter(kernel, product, tile, target).run();
}

}  // namespace sporkle::codegen::spirv
