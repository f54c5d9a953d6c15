#include "tensor/node.h"

namespace sporkle::tensor {

// Graphs may be deeper than the stack: inputs that die with this node are taken apart in a loop.
Node::~Node() {
  std::vector<NodeRef> dying = std::move(inputs);
  while (!dying.empty()) {
    const NodeRef node = std::move(dying.back());
    dying.pop_back();
    if (node && node.use_count() == 1) {
      for (NodeRef& input : node->inputs) dying.push_back(std::move(input));
      node->inputs.clear();
    }
  }
}

bool apply_movement(const Node& movement, View* view) {
  const Shape& from = movement.inputs[0]->shape;
  const Shape& to = movement.shape;
  switch (movement.op) {
    case Op::reshape: {
      Strides strides;
      if (!reshape_strides(from, view->strides, to, &strides)) return false;
      view->strides = strides;
      return true;
    }
    case Op::permute: {
      Strides strides = view->strides;
      for (int i = 0; i < to.rank(); ++i) strides[i] = view->strides[static_cast<int>(movement.dims[i])];
      view->strides = strides;
      return true;
    }
    case Op::expand: {
      Strides strides = Dims::filled(to.rank(), 0);
      const int added = to.rank() - from.rank();
      for (int i = added; i < to.rank(); ++i)
        if (from[i - added] == to[i]) strides[i] = view->strides[i - added];
      view->strides = strides;
      return true;
    }
    case Op::slice:
      for (int i = 0; i < to.rank(); ++i) view->offset += movement.dims[i] * view->strides[i];
      return true;
    case Op::pad:
      for (int i = 0; i < to.rank(); ++i) view->offset -= movement.dims[i] * view->strides[i];
      return true;
    default:
      return true;  // detach
  }
}

Node* resolve(Node* node, View* view) {
  std::vector<const Node*> movements;
  while (is_movement(node->op) && !node->storage) {
    movements.push_back(node);
    node = node->inputs[0].get();
  }
  *view = {0, contiguous_strides(node->shape)};
  for (size_t i = movements.size(); i-- > 0;) apply_movement(*movements[i], view);
  return node;
}

}  // namespace sporkle::tensor
