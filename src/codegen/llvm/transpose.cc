// Tiles of memory that vectors run across.
//
// A vector whose lanes lie a row apart is gathered element by element. Where as many such vectors are wanted that lie
// side by side as each has lanes, their elements are a square tile: its rows are loaded whole and transposed in
// registers, in log2(lanes) rounds that swap the off-diagonal blocks of 1, 2, 4, ... elements (Eklundh, "A Fast
// Computer Method for Matrix Transposing", 1972).
#include <algorithm>
#include <map>
#include <optional>

#include "codegen/llvm/function_emitter.h"
#include "codegen/llvm/text.h"

namespace sporkle::codegen::llvm {
namespace {

// A sum of nodes, each times a constant, and a constant.
struct LinearForm {
  std::map<const Node*, int64_t> terms;
  int64_t constant = 0;

  void add(const Node* node, int64_t factor) {
    if (node->is_constant()) {
      constant += factor * node->value;
    } else if (node->op == Op::add || node->op == Op::sub) {
      add(node->src(0), factor);
      add(node->src(1), node->op == Op::add ? factor : -factor);
    } else if (node->op == Op::mul && node->src(1)->is_constant()) {
      add(node->src(0), factor * node->src(1)->value);
    } else if (node->op == Op::mul && node->src(0)->is_constant()) {
      add(node->src(1), factor * node->src(0)->value);
    } else if ((terms[node] += factor) == 0) {
      terms.erase(node);
    }
  }
};

// Loads below `root` that are wanted where it is: those of a reduction's body are wanted in its loop.
void collect_loads(const Node* root, std::vector<const Node*>& loads, std::unordered_set<const Node*>& seen) {
  if (!seen.insert(root).second || root->op == Op::reduce || root->op == Op::lane_reduce) return;
  if (root->op == Op::load) loads.push_back(root);
  for (const Node* source : root->src()) collect_loads(source, loads, seen);
}

}  // namespace

std::optional<Emitter::Column> Emitter::column_of(const Node* load) {
  const Node *buffer = load->src(0), *index = load->src(1);
  const int width = analysis_.width(load);
  const bool masked = load->source_count > 2;
  if (width < 4 || width > 16 || (width & (width - 1)) || analysis_.is_mutable(buffer)) return {};
  if (buffer->type != DType::f32 && buffer->type != DType::f64) return {};
  const Node* lane = analysis_.vector_range(index);
  const Node* stride = lane ? analysis_.lane_coefficient(index, lane) : nullptr;
  if (!stride || stride->is_constant(1) || (masked && !load->src(3)->is_constant(0))) return {};
  return Column{load, lane, stride, width};
}

std::vector<const Node*> Emitter::columns_below(std::span<const Node* const> roots) {
  std::vector<const Node*> loads;
  std::unordered_set<const Node*> seen;
  for (const Node* root : roots) collect_loads(root, loads, seen);
  std::erase_if(loads, [&](const Node* load) { return find(load) || !column_of(load); });
  return loads;
}

std::vector<std::string> Emitter::transposed_tile(const Column& first) {
  const Node *load = first.load, *buffer = load->src(0);
  const int width = first.width;
  const std::string type = value_type(buffer->type, width), align = std::to_string(ir::dtype_size(buffer->type));
  const Value start = emit(analysis_.at_lane_zero(load->src(1), first.lane));
  const Value stride = emit(first.stride);
  const Value mask = load->source_count > 2 ? emit(load->src(2)) : Value{"", 0, 1};
  const int depth = innermost();
  const std::string corner = address(buffer, start, depth), element = value_type(buffer->type, 1);
  std::vector<std::string> rows;
  for (int row = 0; row < width; ++row) {
    const std::string offset = define(depth, "mul i64 " + stride.text + ", " + std::to_string(row));
    const std::string pointer = define(depth, "getelementptr " + element + ", ptr " + corner + ", i64 " + offset);
    if (mask.text.empty()) {
      rows.push_back(define(depth, "load " + type + ", ptr " + pointer + ", align " + align));
      continue;
    }
    std::string bit = mask.text;
    if (mask.width > 1)
      bit = define(depth, "extractelement " + value_type(DType::boolean, width) + " " + mask.text + ", i64 " +
                              std::to_string(row));
    const std::string bits = widened({bit, depth, 1}, DType::boolean, width),
                      bits_type = value_type(DType::boolean, width);
    const std::string name = "@llvm.masked.load." + intrinsic_suffix(buffer->type, width) + ".p0";
    declare("declare " + type + " " + name + "(ptr, i32 immarg, " + bits_type + ", " + type + ")");
    rows.push_back(define(depth, "call " + type + " " + name + "(ptr " + pointer + ", i32 " + align + ", " + bits_type +
                                     " " + bits + ", " + type + " zeroinitializer)"));
  }
  // From two rows `block` apart: the lanes that the picture of `taken` names, those of the second from `width` on.
  const auto shuffle = [&](const std::string& a, const std::string& b, const std::function<int(int)>& taken) {
    return define(depth, "shufflevector " + type + " " + a + ", " + type + " " + b + ", " + lane_picture(width, taken));
  };
  for (int block = 1; block < width; block *= 2) {
    for (int row = 0; row < width; ++row) {
      if (row & block) continue;
      std::string &a = rows[static_cast<size_t>(row)], &b = rows[static_cast<size_t>(row + block)];
      const std::string upper = shuffle(a, b, [&](int i) { return i & block ? width + i - block : i; });
      const std::string lower = shuffle(a, b, [&](int i) { return i & block ? width + i : i + block; });
      a = upper;
      b = lower;
    }
  }
  return rows;
}

bool Emitter::runs_along(const Column& column, const Node* range) {
  LinearForm form;
  form.add(column.load->src(1), 1);
  const auto found = form.terms.find(range);
  if (found == form.terms.end() || found->second != 1) return false;
  form.terms.erase(found);
  const bool masked = column.load->source_count > 2;
  return std::ranges::none_of(form.terms, [&](const auto& term) { return ir::depends_on(term.first, range); }) &&
         !(masked && ir::depends_on(column.load->src(2), range));
}

void Emitter::load_tiles(std::span<const Node* const> stores) {
  std::vector<const Node*> roots;
  for (const Node* store : stores) roots.insert(roots.end(), store->src().begin() + 1, store->src().end());
  // Columns of one tile differ in a constant alone.
  std::map<std::tuple<const Node*, const Node*, std::map<const Node*, int64_t>>, std::map<int64_t, const Node*>> sides;
  for (const Node* load : columns_below(roots)) {
    LinearForm form;
    form.add(load->src(1), 1);
    const Node* mask = load->source_count > 2 ? load->src(2) : nullptr;
    sides[{load->src(0), mask, form.terms}].emplace(form.constant, load);
  }
  for (const auto& [what, columns] : sides) {
    for (auto i = columns.begin(); i != columns.end();) {
      const Column first = *column_of(i->second);
      std::vector<const Node*> tile;
      for (auto j = i; j != columns.end() && j->first == i->first + static_cast<int64_t>(tile.size()) &&
                       tile.size() < static_cast<size_t>(first.width);
           ++j)
        tile.push_back(j->second);
      if (tile.size() < static_cast<size_t>(first.width)) {
        ++i;
        continue;
      }
      const std::vector<std::string> values = transposed_tile(first);
      for (size_t c = 0; c < tile.size(); ++c) remember(tile[c], {values[c], innermost(), first.width});
      std::advance(i, first.width);
    }
  }
}

}  // namespace sporkle::codegen::llvm
