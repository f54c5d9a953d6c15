#include "codegen/spirv/attention_emitter.h"

#include <spirv/unified1/GLSL.std.450.h>

#include <numbers>

#include "codegen/spirv/units_emitter.h"

namespace sporkle::codegen::spirv {
namespace {

using Kind = AttentionForm::Kind;

constexpr uint32_t kTile = static_cast<uint32_t>(kAttentionTile);
constexpr uint32_t kSubgroups = 4;        // of a workgroup, each with kPiece lines of the tile
constexpr uint32_t kPieces = kTile / 16;  // of a tile that passes by
constexpr uint32_t kPieceElements = 16 * 16;
constexpr uint32_t kWeightPitch = kTile / 8 + 1;  // vectors from a line of weights to the next, in other banks
constexpr float kNever = -1e30F;                  // a score of weight 0

class AttentionEmitter : private UnitsEmitter {
 public:
  AttentionEmitter(const ir::Kernel& kernel, const AttentionForm& form, const VulkanTarget& target)
      : UnitsEmitter(kernel, target),
        form_(form),
        size_pieces_(static_cast<uint32_t>(form.size) / kPiece),
        line_vectors_(static_cast<uint32_t>(form.size) / kVector),
        pitch_(line_vectors_ + 1),
        invocations_(kSubgroups * target.subgroup),
        after_(form.packed ? 1 : 3) {}

  Result<GpuCode> run();

 private:
  using Pieces = std::vector<Id>;

  // A whole number of 64 bits, for AttentionPlaces.
  struct Number {
    AttentionEmitter* emitter = nullptr;  // of a constant: none
    Id id = 0;
    uint64_t constant = 0;
    Number() = default;
    explicit Number(uint64_t number) : constant(number) {}
    Number(AttentionEmitter* e, Id value) : emitter(e), id(value) {}
    Number with(SpvOp op, const Number& other) const {
      AttentionEmitter* e = emitter ? emitter : other.emitter;
      if (!e) return Number(op == SpvOp::OpIAdd ? constant + other.constant : constant * other.constant);
      return {e, e->wide(op, {e->id_of(*this), e->id_of(other)})};
    }
    Number operator+(const Number& other) const { return with(SpvOp::OpIAdd, other); }
    Number operator*(const Number& other) const { return with(SpvOp::OpIMul, other); }
  };
  Id id_of(const Number& number) { return number.emitter ? number.id : m_.constant_u64(number.constant); }
  Number known(Id value) { return {this, value}; }

  // A head's lines of one operand in device memory.
  struct Lines {
    Id address, bytes, elements;  // of the first, u64; from a line to the next: u64, u32
    std::vector<Id> offsets;      // u64, of this invocation's vectors of a tile
  };
  struct Tile {
    Id memory;  // of the workgroup
    const Lines* lines;
  };
  // Floats of a head's queries: device memory, and the tile's in the workgroup.
  struct Floats {
    Id memory, address;
    float factor;
  };

  // ---- Places ----
  void find_part();
  Lines lines(size_t buffer, const Number& first, const Number& line);
  Lines query(size_t buffer, const Number& head) { return lines(buffer, places_.query(row_, head), places_.line()); }
  Lines key(size_t buffer) { return lines(buffer, places_.key(row_, kv_head_), places_.line()); }
  Lines value_of(size_t buffer) { return lines(buffer, places_.value(row_, kv_head_), places_.line()); }
  Lines result(size_t buffer, const Number& head) {
    return lines(buffer, places_.result(row_, head), places_.result_line());
  }
  size_t key_buffer() const { return form_.packed ? 0 : 1; }
  size_t value_buffer() const { return form_.packed ? 0 : 2; }
  Id float_address(size_t buffer, const Number& head);  // of logs or means
  Id line_address(const Lines& of, Id line);            // u32 -> u64

  // ---- The workgroup's memory ----
  Id shared(Id element, uint32_t count, uint32_t bytes);
  Id shared_tile() { return shared(vector_type(), kTile * pitch_, kVectorBytes); }
  Id shared_weights() { return shared(vector_type(), kTile * kWeightPitch, kVectorBytes); }
  Id shared_floats(uint32_t count) { return shared(f32(), count, 4); }
  Id place(Id memory, Id element, Id at);
  Id read_shared(Id memory, Id at);  // a float
  void write_shared(Id memory, Id element, Id at, Id value);
  void fill_masks();
  // The tile's lines to the workgroup's memory, once all have done with what was there.
  void stage(std::initializer_list<Tile> tiles, std::initializer_list<Floats> floats, Id number);

  // ---- Matrices ----
  Id load(Id type, Id from, Layout layout, Id stride);
  Id piece(Id memory, Id type, uint32_t line_piece, uint32_t size_piece, Layout layout);
  // A matrix whose rows (or columns) are all the 16 floats at `at`.
  Id repeated(Id floats, Id at, Layout layout) { return load(sums_, place(floats, f32(), at), layout, c(0)); }
  Id by_rows(Id floats) { return repeated(floats, own_line_, Layout::column_major); }
  Id by_columns(Id floats, uint32_t piece) { return repeated(floats, c(piece * kPiece), Layout::row_major); }
  Pieces own_lines(const Lines& from);
  Id sum_variable(float start);
  Pieces sum_variables();
  Id read(Id variable) { return s_.define(s_.innermost(), SpvOp::OpLoad, sums_, {variable}); }
  void write(Id variable, Id value) { s_.line(s_.innermost(), SpvOp::OpStore, {variable, value}); }
  Id of_matrices(SpvOp op, Id a, Id b) { return s_.define(s_.innermost(), op, sums_, {a, b}); }
  Id times(Id a, Id factor) { return of_matrices(SpvOp::OpMatrixTimesScalar, a, factor); }
  Id of_floats(GLSLstd450 instruction, std::initializer_list<uint32_t> operands);
  // For each element that the invocation holds of matrices in variables.
  void each_element(Id to, Id other, const std::function<Id(Id own, Id other)>& value);
  Id exp2(Id exponents);

  // ---- Attention ----
  Id product(const Pieces& own, Id memory, uint32_t number);                // own lines times a piece's, transposed
  Id scores(const Pieces& own, Id memory, uint32_t number, bool diagonal);  // by log2(e)
  void put(Id weights, uint32_t number, Id values);
  void add_products(const Pieces& sums, Id weights, Id memory, uint32_t number);
  void each_piece(bool diagonal, const std::function<void(uint32_t)>& body);
  void each_tile(const std::function<void(Id number, bool diagonal)>& body);
  // lane < 16: body(the values of that line of the variable's matrix).
  void each_own_line(Id variable, const std::function<void(const std::vector<Id>&)>& body);
  void store(const Pieces& sums, const Lines& to, const std::function<Id(Id)>& last);

  void forward();
  void key_gradients();
  void query_gradients();

  const AttentionForm& form_;
  const uint32_t size_pieces_, line_vectors_, pitch_, invocations_;
  const size_t after_;  // the first buffer after q, k and v
  AttentionPlaces<Number> places_;
  Number row_, head_, kv_head_, sharing_;
  const Node* iterations_ = nullptr;
  Id tile_ = 0, tiles_ = 0;     // u32: the workgroup's, and how many there are
  Id lane_ = 0, own_line_ = 0;  // u32: in the subgroup; the subgroup's first, in the tile
  Id factors_a_ = 0, factors_b_ = 0, sums_ = 0, narrow_sums_ = 0;  // types
  Id scale_ = 0, log2_scale_ = 0;                                  // f32
  Id masks_ = 0, lines_ = 0, exponents_ = 0;                       // see fill_masks, each_own_line, exp2
};

// ------------------------------------------------------------------------------------------------ places

void AttentionEmitter::find_part() {
  const auto scalar = [&](int n) {
    const ir::ScalarArgument& argument = kernel_.scalars[static_cast<size_t>(n)];
    return builder_.scalar(argument.type, n, argument.name);
  };
  const Node *rows = scalar(0), *heads = scalar(1), *kv_heads = scalar(2), *tiles = scalar(3);
  const Node* own_heads = form_.kind == Kind::keys ? kv_heads : heads;
  iterations_ = builder_.mul(builder_.mul(rows, own_heads), tiles);
  const Id part = narrow(0, begin_function());
  find_invocation();
  lane_ = i(SpvOp::OpUMod, local_, c(target_.subgroup));
  own_line_ = mul(subgroup_, c(kPiece));

  // The longest first, so that no workgroup is alone at the end; a head's next to each other, for the cache's sake.
  tiles_ = value32(tiles);
  const Id number = i(SpvOp::OpUMod, part, tiles_), rest = i(SpvOp::OpUDiv, part, tiles_);
  const Id last = i(SpvOp::OpISub, tiles_, c(1));
  tile_ = form_.kind == Kind::keys ? number : i(SpvOp::OpISub, last, number);
  const Id of_row = value32(own_heads), head = i(SpvOp::OpUMod, rest, of_row);
  const Id sharing = i(SpvOp::OpUDiv, value32(heads), value32(kv_heads));
  const Id kv_head = form_.kind == Kind::keys ? head : i(SpvOp::OpUDiv, head, sharing);
  row_ = known(widen(i(SpvOp::OpUDiv, rest, of_row)));
  head_ = known(widen(head));
  kv_head_ = known(widen(kv_head));
  sharing_ = known(widen(sharing));
  places_ = {known(value(heads)), known(value(kv_heads)), known(value(tiles)) * Number(kTile),
             Number(static_cast<uint64_t>(form_.size)), form_.packed};

  scale_ = arithmetic_.from_bits(DType::f32, 0, arguments_.bits(kernel_.buffers.size() + 4));
  log2_scale_ = s_.define(0, SpvOp::OpFMul, f32(), {scale_, m_.constant_f32(std::numbers::log2e_v<float>)});
  factors_a_ = matrix_type(DType::bf16, Use::a);
  factors_b_ = matrix_type(DType::bf16, Use::b);
  sums_ = matrix_type(DType::f32, Use::accumulator);
  narrow_sums_ = matrix_type(DType::bf16, Use::accumulator);
}

AttentionEmitter::Lines AttentionEmitter::lines(size_t buffer, const Number& first, const Number& line) {
  const Id base = arguments_.bits(buffer);
  Lines result{wide(SpvOp::OpIAdd, {base, id_of(first * Number(2))}),
               id_of(line * Number(2)),
               narrow(s_.innermost(), id_of(line)),
               {}};
  for (uint32_t n = 0; n < kTile * line_vectors_ / invocations_; ++n) {
    const Id at = add(local_, c(n * invocations_));
    const Id within = mul(i(SpvOp::OpUMod, at, c(line_vectors_)), c(kVectorBytes));
    const Id start = wide(SpvOp::OpIMul, {widen(i(SpvOp::OpUDiv, at, c(line_vectors_))), result.bytes});
    result.offsets.push_back(wide(SpvOp::OpIAdd, {start, widen(within)}));
  }
  return result;
}

Id AttentionEmitter::float_address(size_t buffer, const Number& head) {
  const Number first = (row_ * places_.heads + head) * places_.length * Number(4);
  return wide(SpvOp::OpIAdd, {arguments_.bits(buffer), id_of(first)});
}

Id AttentionEmitter::line_address(const Lines& of, Id line) {
  return wide(SpvOp::OpIAdd, {of.address, wide(SpvOp::OpIMul, {widen(line), of.bytes})});
}

// ------------------------------------------------------------------------------------------------ memory

Id AttentionEmitter::shared(Id element, uint32_t count, uint32_t bytes) {
  shared_bytes_ += count * bytes;
  return m_.global_variable(spv::StorageClass::Workgroup, m_.array_type(element, count));
}

Id AttentionEmitter::place(Id memory, Id element, Id at) {
  return s_.define(s_.innermost(), SpvOp::OpAccessChain, m_.pointer_type(spv::StorageClass::Workgroup, element),
                   {memory, at});
}

Id AttentionEmitter::read_shared(Id memory, Id at) {
  return s_.define(s_.innermost(), SpvOp::OpLoad, f32(),
                   {place(memory, f32(), at), number(spv::MemoryAccessMask::NonPrivatePointer)});
}

void AttentionEmitter::write_shared(Id memory, Id element, Id at, Id value) {
  s_.line(s_.innermost(), SpvOp::OpStore,
          {place(memory, element, at), value, number(spv::MemoryAccessMask::NonPrivatePointer)});
}

// Two pieces to add to scores: zeros, and the diagonal's, where a query does not see the keys after it.
void AttentionEmitter::fill_masks() {
  masks_ = shared_floats(2 * kPieceElements);
  for (uint32_t n = 0; n < 2 * kPieceElements / invocations_; ++n) {
    const Id at = add(local_, c(n * invocations_));
    const Id line = i(SpvOp::OpUMod, i(SpvOp::OpUDiv, at, c(kPiece)), c(kPiece)),
             other = i(SpvOp::OpUMod, at, c(kPiece));
    const Id is_later = form_.kind == Kind::keys ? less(other, line) : less(line, other);
    const Id is_diagonal = less(c(kPieceElements - 1), at);
    const Id hidden = s_.define(0, SpvOp::OpLogicalAnd, m_.bool_type(), {is_later, is_diagonal});
    const Id mask = s_.define(0, SpvOp::OpSelect, f32(), {hidden, m_.constant_f32(kNever), m_.constant_f32(0)});
    write_shared(masks_, f32(), at, mask);
  }
}

void AttentionEmitter::stage(std::initializer_list<Tile> tiles, std::initializer_list<Floats> floats, Id number) {
  std::vector<Id> vectors, values;
  const Id first_line = mul(number, c(kTile)), own = i(SpvOp::OpUMod, local_, c(kTile));
  for (const Tile& tile : tiles) {
    const Id start = line_address(*tile.lines, first_line);
    for (const Id offset : tile.lines->offsets) vectors.push_back(read_vector(wide(SpvOp::OpIAdd, {start, offset})));
  }
  for (const Floats& some : floats) {
    const Id bytes = mul(add(first_line, own), c(4));
    const Id from = pointer(f32(), 4, wide(SpvOp::OpIAdd, {some.address, widen(bytes)}));
    const Id value =
        s_.define(s_.innermost(), SpvOp::OpLoad, f32(), {from, this->number(spv::MemoryAccessMask::Aligned), 4});
    values.push_back(s_.define(s_.innermost(), SpvOp::OpFMul, f32(), {value, m_.constant_f32(some.factor)}));
  }
  barrier();
  auto vector = vectors.begin();
  for (const Tile& tile : tiles)
    for (uint32_t n = 0; n < tile.lines->offsets.size(); ++n) {
      const Id at = add(local_, c(n * invocations_));
      const Id to = add(mul(i(SpvOp::OpUDiv, at, c(line_vectors_)), c(pitch_)), i(SpvOp::OpUMod, at, c(line_vectors_)));
      write_shared(tile.memory, vector_type(), to, *vector++);
    }
  auto value = values.begin();
  // Several invocations write the same.
  for (const Floats& some : floats) write_shared(some.memory, f32(), own, *value++);
  barrier();
}

// ------------------------------------------------------------------------------------------------ matrices

Id AttentionEmitter::load(Id type, Id from, Layout layout, Id stride) {
  return s_.define(s_.innermost(), cooperative::OpLoad, type,
                   {from, c(number(layout)), stride, number(spv::MemoryAccessMask::NonPrivatePointer)});
}

Id AttentionEmitter::piece(Id memory, Id type, uint32_t line_piece, uint32_t size_piece, Layout layout) {
  const Id at = c(line_piece * kPiece * pitch_ + size_piece * kPiece / kVector);
  return load(type, place(memory, vector_type(), at), layout, c(pitch_));
}

AttentionEmitter::Pieces AttentionEmitter::own_lines(const Lines& from) {
  Pieces result;
  const Id start = line_address(from, add(mul(tile_, c(kTile)), own_line_));
  for (uint32_t n = 0; n < size_pieces_; ++n) {
    const Id at = wide(SpvOp::OpIAdd, {start, m_.constant_u64(uint64_t{2} * kPiece * n)});
    result.push_back(s_.define(s_.innermost(), cooperative::OpLoad, factors_a_,
                               {pointer(element_type(DType::bf16), 2, at), c(number(Layout::row_major)), from.elements,
                                number(spv::MemoryAccessMask::Aligned), kVectorBytes}));
  }
  return result;
}

Id AttentionEmitter::sum_variable(float start) {
  const Id result = variable(sums_);
  write(result, s_.define(s_.innermost(), SpvOp::OpCompositeConstruct, sums_, {m_.constant_f32(start)}));
  return result;
}

AttentionEmitter::Pieces AttentionEmitter::sum_variables() {
  Pieces result;
  for (uint32_t n = 0; n < size_pieces_; ++n) result.push_back(sum_variable(0));
  return result;
}

Id AttentionEmitter::of_floats(GLSLstd450 instruction, std::initializer_list<uint32_t> operands) {
  const Words rest(operands);
  return s_.define(s_.innermost(), SpvOp::OpExtInst, f32(), {m_.glsl(), static_cast<uint32_t>(instruction)}, rest);
}

void AttentionEmitter::each_element(Id to, Id other, const std::function<Id(Id, Id)>& value) {
  const Id count = widen(s_.define(s_.innermost(), cooperative::OpLength, u32(), {sums_}));
  std::vector<Scopes::Carried> none;
  s_.counted_loop(
      s_.innermost(), m_.constant_u64(0), count, m_.constant_u64(1), none,
      [&](Id index) {
        const int depth = s_.innermost();
        const auto element = [&](Id matrix) {
          return s_.define(depth, SpvOp::OpAccessChain, m_.pointer_type(spv::StorageClass::Function, f32()),
                           {matrix, narrow(depth, index)});
        };
        const Id own = element(to);
        const Id made = value(s_.define(depth, SpvOp::OpLoad, f32(), {own}),
                              s_.define(depth, SpvOp::OpLoad, f32(), {element(other)}));
        s_.line(depth, SpvOp::OpStore, {own, made});
      },
      true);
}

Id AttentionEmitter::exp2(Id exponents) {
  write(exponents_, exponents);
  each_element(exponents_, exponents_, [&](Id x, Id) { return of_floats(GLSLstd450Exp2, {x}); });
  return read(exponents_);
}

// ------------------------------------------------------------------------------------------------ attention

Id AttentionEmitter::product(const Pieces& own, Id memory, uint32_t number) {
  Id sum = m_.null(sums_);
  for (uint32_t n = 0; n < size_pieces_; ++n) {
    const Id other = piece(memory, factors_b_, number, n, Layout::column_major);
    sum = s_.define(s_.innermost(), cooperative::OpMulAdd, sums_, {own[n], other, sum});
  }
  return sum;
}

Id AttentionEmitter::scores(const Pieces& own, Id memory, uint32_t number, bool diagonal) {
  const Id all = times(product(own, memory, number), log2_scale_);
  if (!diagonal) return all;
  const Id is_own = s_.define(s_.innermost(), SpvOp::OpIEqual, m_.bool_type(), {subgroup_, c(number)});
  const Id at = s_.define(s_.innermost(), SpvOp::OpSelect, u32(), {is_own, c(kPieceElements), c(0)});
  return of_matrices(SpvOp::OpFAdd, all, load(sums_, place(masks_, f32(), at), Layout::row_major, c(kPiece)));
}

void AttentionEmitter::put(Id weights, uint32_t number, Id values) {
  const Id rounded = s_.define(s_.innermost(), SpvOp::OpFConvert, narrow_sums_, {values});
  const Id at = add(mul(own_line_, c(kWeightPitch)), c(number * kPiece / kVector));
  s_.line(s_.innermost(), cooperative::OpStore,
          {place(weights, vector_type(), at), rounded, c(this->number(Layout::row_major)), c(kWeightPitch),
           this->number(spv::MemoryAccessMask::NonPrivatePointer)});
}

void AttentionEmitter::add_products(const Pieces& sums, Id weights, Id memory, uint32_t number) {
  const Id at = add(mul(own_line_, c(kWeightPitch)), c(number * kPiece / kVector));
  const Id factors = load(factors_a_, place(weights, vector_type(), at), Layout::row_major, c(kWeightPitch));
  for (uint32_t n = 0; n < size_pieces_; ++n) {
    const Id other = piece(memory, factors_b_, number, n, Layout::row_major);
    write(sums[n], s_.define(s_.innermost(), cooperative::OpMulAdd, sums_, {factors, other, read(sums[n])}));
  }
}

// On the diagonal, a subgroup leaves out pieces of which it would see nothing.
void AttentionEmitter::each_piece(bool diagonal, const std::function<void(uint32_t)>& body) {
  for (uint32_t n = 0; n < kPieces; ++n) {
    if (!diagonal) {
      body(n);
      continue;
    }
    const Id unseen = form_.kind == Kind::keys ? less(c(n), subgroup_) : less(subgroup_, c(n));
    const Id seen = s_.define(s_.innermost(), SpvOp::OpLogicalNot, m_.bool_type(), {unseen});
    s_.when(s_.innermost(), seen, [&] { body(n); });
  }
}

void AttentionEmitter::each_tile(const std::function<void(Id, bool)>& body) {
  const bool keys = form_.kind == Kind::keys;
  if (keys) body(tile_, true);
  const Id first = keys ? widen(add(tile_, c(1))) : m_.constant_u64(0), end = widen(keys ? tiles_ : tile_);
  std::vector<Scopes::Carried> none;
  s_.counted_loop(s_.innermost(), first, end, m_.constant_u64(1), none,
                  [&](Id index) { body(narrow(s_.innermost(), index), false); });
  if (!keys) body(tile_, true);
}

void AttentionEmitter::each_own_line(Id variable, const std::function<void(const std::vector<Id>&)>& body) {
  if (lines_ == 0) lines_ = shared_floats(kSubgroups * kPieceElements);
  const Id start = mul(subgroup_, c(kPieceElements));
  s_.line(s_.innermost(), cooperative::OpStore,
          {place(lines_, f32(), start), read(variable), c(number(Layout::row_major)), c(kPiece),
           number(spv::MemoryAccessMask::NonPrivatePointer)});
  barrier(spv::Scope::Subgroup);
  s_.when(s_.innermost(), less(lane_, c(kPiece)), [&] {
    std::vector<Id> values;
    for (uint32_t n = 0; n < kPiece; ++n)
      values.push_back(read_shared(lines_, add(start, add(mul(lane_, c(kPiece)), c(n)))));
    body(values);
  });
  barrier(spv::Scope::Subgroup);
}

void AttentionEmitter::store(const Pieces& sums, const Lines& to, const std::function<Id(Id)>& last) {
  const Id start = line_address(to, add(mul(tile_, c(kTile)), own_line_));
  for (uint32_t n = 0; n < size_pieces_; ++n) {
    const Id at = wide(SpvOp::OpIAdd, {start, m_.constant_u64(uint64_t{2} * kPiece * n)});
    const Id rounded = s_.define(s_.innermost(), SpvOp::OpFConvert, narrow_sums_, {last(read(sums[n]))});
    s_.line(s_.innermost(), cooperative::OpStore,
            {pointer(element_type(DType::bf16), 2, at), rounded, c(number(Layout::row_major)), to.elements,
             number(spv::MemoryAccessMask::Aligned), kVectorBytes});
  }
}

void AttentionEmitter::forward() {
  const Lines q = query(0, head_), k = key(key_buffer()), v = value_of(value_buffer()), y = result(after_, head_);
  const Id logs = float_address(after_ + 1, head_);
  const Id keys = shared_tile(), values = shared_tile(), weights = shared_weights(), row_values = shared_floats(kTile);
  const Pieces own = own_lines(q);

  const Id top = sum_variable(kNever);
  each_tile([&](Id tile, bool diagonal) {
    stage({{keys, &k}}, {}, tile);
    each_piece(diagonal, [&](uint32_t n) {
      write(exponents_, scores(own, keys, n, diagonal));
      each_element(top, exponents_, [&](Id a, Id b) { return of_floats(GLSLstd450FMax, {a, b}); });
    });
  });
  const Id own_value = add(own_line_, lane_);
  each_own_line(top, [&](const std::vector<Id>& line) {
    Id highest = line[0];
    for (const Id value : line) highest = of_floats(GLSLstd450FMax, {highest, value});
    write_shared(row_values, f32(), own_value, highest);
  });
  const Id tops = by_rows(row_values);

  const Id total = sum_variable(0);
  const Pieces sums = sum_variables();
  each_tile([&](Id tile, bool diagonal) {
    stage({{keys, &k}, {values, &v}}, {}, tile);
    each_piece(diagonal, [&](uint32_t n) {
      const Id some = exp2(of_matrices(SpvOp::OpFSub, scores(own, keys, n, diagonal), tops));
      write(total, of_matrices(SpvOp::OpFAdd, read(total), some));
      put(weights, n, some);
    });
    barrier(spv::Scope::Subgroup);
    each_piece(diagonal, [&](uint32_t n) { add_products(sums, weights, values, n); });
  });
  each_own_line(total, [&](const std::vector<Id>& line) {
    const int depth = s_.innermost();
    Id sum = line[0];
    for (size_t n = 1; n < line.size(); ++n) sum = s_.define(depth, SpvOp::OpFAdd, f32(), {sum, line[n]});
    const Id log2 =
        s_.define(depth, SpvOp::OpFAdd, f32(), {of_floats(GLSLstd450Log2, {sum}), read_shared(row_values, own_value)});
    const Id log = s_.define(depth, SpvOp::OpFMul, f32(), {log2, m_.constant_f32(std::numbers::ln2_v<float>)});
    const Id bytes = mul(add(mul(tile_, c(kTile)), own_value), c(4));
    s_.line(
        depth, SpvOp::OpStore,
        {pointer(f32(), 4, wide(SpvOp::OpIAdd, {logs, widen(bytes)})), log, number(spv::MemoryAccessMask::Aligned), 4});
    write_shared(row_values, f32(), own_value, s_.define(depth, SpvOp::OpFDiv, f32(), {m_.constant_f32(1), sum}));
  });
  const Id shares = by_rows(row_values);
  store(sums, y, [&](Id sum) { return of_matrices(SpvOp::OpFMul, sum, shares); });
}

void AttentionEmitter::query_gradients() {
  const Lines q = query(0, head_), k = key(key_buffer()), v = value_of(value_buffer());
  const Lines dy = result(after_ + 2, head_), dq = query(after_ + 3, head_);
  const Id keys = shared_tile(), values = shared_tile(), slopes = shared_weights();
  const Id logs = shared_floats(kTile), means = shared_floats(kTile);
  const Pieces own_q = own_lines(q), own_dy = own_lines(dy);
  stage({},
        {{logs, float_address(after_, head_), std::numbers::log2e_v<float>},
         {means, float_address(after_ + 1, head_), 1}},
        tile_);
  const Id own_logs = by_rows(logs), own_means = by_rows(means);
  const Pieces sums = sum_variables();
  each_tile([&](Id tile, bool diagonal) {
    stage({{keys, &k}, {values, &v}}, {}, tile);
    each_piece(diagonal, [&](uint32_t n) {
      const Id weights = exp2(of_matrices(SpvOp::OpFSub, scores(own_q, keys, n, diagonal), own_logs));
      const Id change = of_matrices(SpvOp::OpFSub, product(own_dy, values, n), own_means);
      put(slopes, n, of_matrices(SpvOp::OpFMul, weights, change));
    });
    barrier(spv::Scope::Subgroup);
    each_piece(diagonal, [&](uint32_t n) { add_products(sums, slopes, keys, n); });
  });
  store(sums, dq, [&](Id sum) { return times(sum, scale_); });
}

void AttentionEmitter::key_gradients() {
  const Lines k = key(key_buffer()), v = value_of(value_buffer());
  const Lines dk = key(after_ + 3), dv = value_of(form_.packed ? after_ + 3 : after_ + 4);
  const Id queries = shared_tile(), gradients = shared_tile(), weights = shared_weights(), slopes = shared_weights();
  const Id logs = shared_floats(kTile), means = shared_floats(kTile);
  const Pieces own_k = own_lines(k), own_v = own_lines(v);
  const Pieces of_k = sum_variables(), of_v = sum_variables();
  std::vector<Scopes::Carried> none;
  s_.counted_loop(0, m_.constant_u64(0), id_of(sharing_), m_.constant_u64(1), none, [&](Id member) {
    const Number head = kv_head_ * sharing_ + known(member);
    const Lines q = query(0, head), dy = result(after_ + 2, head);
    const Id head_logs = float_address(after_, head), head_means = float_address(after_ + 1, head);
    each_tile([&](Id tile, bool diagonal) {
      stage({{queries, &q}, {gradients, &dy}},
            {{logs, head_logs, std::numbers::log2e_v<float>}, {means, head_means, 1}}, tile);
      each_piece(diagonal, [&](uint32_t n) {
        const Id exponents = of_matrices(SpvOp::OpFSub, scores(own_k, queries, n, diagonal), by_columns(logs, n));
        const Id some = exp2(exponents);
        put(weights, n, some);
        const Id change = of_matrices(SpvOp::OpFSub, product(own_v, gradients, n), by_columns(means, n));
        put(slopes, n, of_matrices(SpvOp::OpFMul, some, change));
      });
      barrier(spv::Scope::Subgroup);
      each_piece(diagonal, [&](uint32_t n) {
        add_products(of_v, weights, gradients, n);
        add_products(of_k, slopes, queries, n);
      });
    });
  });
  store(of_k, dk, [&](Id sum) { return times(sum, scale_); });
  store(of_v, dv, [](Id sum) { return sum; });
}

Result<GpuCode> AttentionEmitter::run() {
  declare_units(DType::bf16);
  find_part();
  exponents_ = variable(sums_);
  fill_masks();
  if (form_.kind == Kind::forward)
    forward();
  else if (form_.kind == Kind::keys)
    key_gradients();
  else
    query_gradients();
  return finish(invocations_, iterations_);
}

}  // namespace

Result<GpuCode> emit_attention(const ir::Kernel& kernel, const AttentionForm& form, const VulkanTarget& target) {
  if (const auto refusal = attention_refusal(target, form.size)) return unsupported(*refusal);
  return AttentionEmitter(kernel, form, target).run();
}

}  // namespace sporkle::codegen::spirv
