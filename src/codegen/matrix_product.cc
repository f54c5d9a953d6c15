#include "codegen/matrix_product.h"

#include <algorithm>
#include <numeric>

#include "ir/builder.h"

namespace sporkle::codegen {
namespace {

using ir::Builder;
using ir::DType;
using ir::Node;
using ir::Op;

constexpr int64_t kMostMultiple = 4096;

bool is_known_at_launch(const Node* value) {
  bool known = true;
  ir::visit_post_order(value, [&](const Node* node) {
    known &= node->op != Op::range && node->op != Op::load && node->op != Op::reduce && node->op != Op::lane_reduce;
  });
  return known;
}

const Node* only_statement(std::span<const Node* const> statements) {
  while (statements.size() == 1 && statements[0]->op == Op::block) statements = statements[0]->src();
  return statements.size() == 1 ? statements[0] : nullptr;
}

// What one more step along `range` adds to the index; nullptr where that is not the same everywhere.
const Node* stride_along(Builder& b, const Node* index, const Node* range) {
  if (index == range) return b.integer(1);
  if (!ir::depends_on(index, range)) return b.integer(0);
  if (index->op != Op::add && index->op != Op::sub && index->op != Op::mul) return nullptr;
  const Node *x = index->src(0), *y = index->src(1);
  if (index->op == Op::mul) {
    if (ir::depends_on(x, range) && ir::depends_on(y, range)) return nullptr;
    const bool first = ir::depends_on(x, range);
    const Node* stride = stride_along(b, first ? x : y, range);
    return stride ? b.mul(stride, first ? y : x) : nullptr;
  }
  const Node *of_x = stride_along(b, x, range), *of_y = stride_along(b, y, range);
  return of_x && of_y ? b.binary(index->op, of_x, of_y) : nullptr;
}

// Nothing unless the index is an affine one of these ranges.
std::optional<MatrixAccess> access(Builder& b, const Node* buffer, const Node* index,
                                   std::span<const Node* const> batches, const Node* row, const Node* column) {
  if (buffer->op != Op::buffer) return std::nullopt;
  MatrixAccess result;
  result.buffer = buffer;
  ir::NodeMap at_zero;
  const auto along = [&](const Node* range) -> const Node* {
    at_zero.emplace(range, b.integer(0));
    const Node* stride = stride_along(b, index, range);
    return stride && is_known_at_launch(stride) ? stride : nullptr;
  };
  for (const Node* batch : batches) result.batch_strides.push_back(along(batch));
  result.row_stride = along(row);
  result.column_stride = along(column);
  result.base = ir::rewrite(b, index, at_zero);
  if (!result.row_stride || !result.column_stride || std::ranges::count(result.batch_strides, nullptr) > 0 ||
      !is_known_at_launch(result.base))
    return std::nullopt;
  return result;
}

}  // namespace

int64_t known_multiple(const Node* value) {
  switch (value->op) {
    case Op::constant:
      return value->value == 0 ? kMostMultiple : std::gcd(value->value, kMostMultiple);
    case Op::mul:
      return std::min(kMostMultiple, known_multiple(value->src(0)) * known_multiple(value->src(1)));
    case Op::add:
    case Op::sub:
      return std::gcd(known_multiple(value->src(0)), known_multiple(value->src(1)));
    case Op::shl:
      if (!value->src(1)->is_constant() || value->src(1)->value < 0 || value->src(1)->value > 12) return 1;
      return std::min(kMostMultiple, known_multiple(value->src(0)) << value->src(1)->value);
    default:
      return 1;
  }
}

std::optional<MatrixProduct> find_matrix_product(const ir::Kernel& kernel) {
  Builder b(*kernel.context);
  std::vector<const Node*> ranges;
  const Node* statement = only_statement(kernel.body->src());
  while (statement && statement->op == Op::loop) {
    if (!is_known_at_launch(statement->src(0)->src(0))) return std::nullopt;
    ranges.push_back(statement->src(0));
    statement = only_statement(statement->src().subspan(1));
  }
  if (!statement || statement->op != Op::store || statement->source_count != 3 || ranges.size() < 2)
    return std::nullopt;
  const Node* value = statement->src(2);
  if (value->op == Op::cast && ir::is_float(value->type)) value = value->src(0);
  if (value->op != Op::reduce || value->type != DType::f32 || value->combine() != ir::Combine::fma ||
      !value->src(0)->is_constant(0))
    return std::nullopt;
  const auto factor = [](const Node* node) -> const Node* {
    if (node->op == Op::cast) node = node->src(0);
    return node->op == Op::load && node->source_count == 2 ? node : nullptr;
  };
  const Node *k = value->src(1), *x = factor(value->src(2)), *y = factor(value->src(3));
  if (!x || !y || !is_known_at_launch(k->src(0))) return std::nullopt;
  const Node *row = ranges[ranges.size() - 2], *column = ranges.back();
  const std::span<const Node* const> batches = std::span(ranges).first(ranges.size() - 2);
  if (ir::depends_on(x->src(1), column)) std::swap(x, y);

  const auto a_access = access(b, x->src(0), x->src(1), batches, row, k);
  const auto b_access = access(b, y->src(0), y->src(1), batches, k, column);
  const auto c_access = access(b, statement->src(0), statement->src(1), batches, row, column);
  if (!a_access || !b_access || !c_access) return std::nullopt;
  MatrixProduct product;
  for (const Node* batch : batches) product.batches.push_back(batch->src(0));
  product.rows = row->src(0);
  product.columns = column->src(0);
  product.depth = k->src(0);
  product.a = *a_access;
  product.b = *b_access;
  product.c = *c_access;
  product.row_range = row->name;
  product.column_range = column->name;
  product.depth_range = k->name;
  return product;
}

}  // namespace sporkle::codegen
