#include "codegen/spirv/scopes.h"

namespace sporkle::codegen::spirv {
namespace {

constexpr uint32_t kNoControl = 0;  // no hints to the driver's compiler

}  // namespace

void Scopes::open(Id label) {
  scopes_.push_back(std::make_unique<Scope>());
  scopes_.back()->label = label;
}

std::unique_ptr<Scope> Scopes::close() {
  std::unique_ptr<Scope> closed = std::move(scopes_.back());
  scopes_.pop_back();
  return closed;
}

const Value* Scopes::find(const ir::Node* node) const {
  for (const auto& scope : scopes_)
    if (const auto found = scope->values.find(node); found != scope->values.end()) return &found->second;
  return nullptr;
}

const Value* Scopes::find_vector(const ir::Node* first) const {
  for (const auto& scope : scopes_)
    if (const auto found = scope->vectors.find(first); found != scope->vectors.end()) return &found->second;
  return nullptr;
}

void Scopes::forget(const std::function<bool(const ir::Node*)>& stale) {
  for (const auto& scope : scopes_) {
    std::erase_if(scope->values, [&](const auto& entry) { return stale(entry.first); });
    std::erase_if(scope->vectors, [&](const auto& entry) { return stale(entry.first); });
  }
}

Id Scopes::define(int depth, spv::Op op, Id type, std::initializer_list<uint32_t> operands,
                  std::span<const uint32_t> more) {
  const Id id = module_->fresh();
  Words& text = at(depth).text;
  text.push_back(static_cast<uint32_t>(3 + operands.size() + more.size()) << 16 | static_cast<uint32_t>(op));
  text.push_back(type);
  text.push_back(id);
  text.insert(text.end(), operands);
  text.insert(text.end(), more.begin(), more.end());
  return id;
}

void Scopes::start_block(int depth, Id label) {
  line(depth, spv::Op::OpLabel, {label});
  at(depth).label = label;
}

void Scopes::when(int depth, Id condition, const std::function<void()>& then) {
  const Id yes = module_->fresh(), after = module_->fresh();
  line(depth, spv::Op::OpSelectionMerge, {after, kNoControl});
  line(depth, spv::Op::OpBranchConditional, {condition, yes, after});
  start_block(depth, yes);
  then();
  line(depth, spv::Op::OpBranch, {after});
  start_block(depth, after);
}

void Scopes::branch(Id condition, const std::function<void()>& then) {
  const int depth = innermost();
  const Id yes = module_->fresh(), after = module_->fresh();
  open(yes);
  then();
  const std::unique_ptr<Scope> closed = close();
  line(depth, spv::Op::OpSelectionMerge, {after, kNoControl});
  line(depth, spv::Op::OpBranchConditional, {condition, yes, after});
  start_block(depth, yes);
  Words& text = at(depth).text;
  text.insert(text.end(), closed->text.begin(), closed->text.end());
  line(depth, spv::Op::OpBranch, {after});
  start_block(depth, after);
}

Id Scopes::choose(int depth, Id condition, Id type, Id otherwise, const std::function<Id()>& then) {
  const Id before = at(depth).label;
  Id value = 0, from = 0;
  when(depth, condition, [&] {
    value = then();
    from = at(depth).label;
  });
  return define(depth, spv::Op::OpPhi, type, {value, from, otherwise, before});
}

void Scopes::counted_loop(int depth, Id start, Id end, Id step, std::vector<Carried>& carried,
                          const std::function<void(Id)>& body, bool unroll) {
  // Scopes deeper than `depth` stay open but are set aside, so that this loop lands before them in the text.
  std::vector<std::unique_ptr<Scope>> aside;
  while (innermost() > depth) aside.push_back(close());
  const Id i64 = module_->integer_type(64);
  const Id head = module_->fresh(), test = module_->fresh(), first = module_->fresh(), again = module_->fresh(),
           exit = module_->fresh();
  const Id index = module_->fresh(), next = module_->fresh();
  for (Carried& c : carried) c.result = module_->fresh();
  open(first);
  body(index);
  const std::unique_ptr<Scope> closed = close();

  const Id before = at(depth).label;
  line(depth, spv::Op::OpBranch, {head});
  start_block(depth, head);
  line(depth, spv::Op::OpPhi, {i64, index, start, before, next, again});
  for (const Carried& c : carried) line(depth, spv::Op::OpPhi, {c.type, c.result, c.initial, before, c.next, again});
  const auto control = unroll ? static_cast<uint32_t>(spv::LoopControlMask::Unroll) : kNoControl;
  line(depth, spv::Op::OpLoopMerge, {exit, again, control});
  line(depth, spv::Op::OpBranch, {test});
  start_block(depth, test);
  const Id more = define(depth, spv::Op::OpSLessThan, module_->bool_type(), {index, end});
  line(depth, spv::Op::OpBranchConditional, {more, first, exit});
  start_block(depth, first);
  Words& text = at(depth).text;
  text.insert(text.end(), closed->text.begin(), closed->text.end());
  line(depth, spv::Op::OpBranch, {again});
  start_block(depth, again);
  line(depth, spv::Op::OpIAdd, {i64, next, index, step});
  line(depth, spv::Op::OpBranch, {head});
  start_block(depth, exit);
  while (!aside.empty()) {
    scopes_.push_back(std::move(aside.back()));
    aside.pop_back();
  }
}

}  // namespace sporkle::codegen::spirv
