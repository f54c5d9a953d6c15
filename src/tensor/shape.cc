#include "tensor/shape.h"

namespace sporkle::tensor {

std::string to_string(const Dims& dims) {
  std::string text = "[";
  for (const int64_t d : dims) text += (text.size() > 1 ? ", " : "") + std::to_string(d);
  if (dims.rank() > kMaxRank) text += ", ...";
  return text + "]";
}

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t d : shape) count *= d;
  return count;
}

Status check_shape(const Shape& shape) {
  if (shape.rank() > kMaxRank)
    return invalid_argument("a shape has " + std::to_string(shape.rank()) + " dimensions; at most " +
                            std::to_string(kMaxRank) + " are possible");
  int64_t count = 1;
  for (const int64_t d : shape) {
    if (d < 0) return invalid_argument("shape " + to_string(shape) + " has a negative extent");
    if (d > kMaxElements || count > kMaxElements / std::max<int64_t>(d, 1))
      return invalid_argument("shape " + to_string(shape) + " has more than 2^40 elements");
    count *= std::max<int64_t>(d, 1);
  }
  return {};
}

Strides contiguous_strides(const Shape& shape) {
  Strides strides = Dims::filled(shape.rank(), 1);
  for (int i = shape.rank() - 2; i >= 0; --i) strides[i] = strides[i + 1] * shape[i + 1];
  return strides;
}

Result<Shape> broadcast_shapes(const Shape& a, const Shape& b) {
  const int rank = std::max(a.rank(), b.rank());
  Shape result = Dims::filled(rank, 1);
  for (int i = 0; i < rank; ++i) {
    const int ia = i - (rank - a.rank()), ib = i - (rank - b.rank());
    const int64_t da = ia < 0 ? 1 : a[ia], db = ib < 0 ? 1 : b[ib];
    if (da != db && da != 1 && db != 1)
      return invalid_argument("shapes " + to_string(a) + " and " + to_string(b) + " do not broadcast: axis " +
                              std::to_string(i) + " has " + std::to_string(da) + " and " + std::to_string(db));
    result[i] = da == 1 ? db : da;
  }
  return result;
}

bool reshape_strides(const Shape& from, const Strides& strides, const Shape& to, Strides* result) {
  *result = contiguous_strides(to);
  if (element_count(from) == 0) return true;
  // Walks groups of axes with equal products from the front; within a group the old axes must lie as one.
  Shape old_shape, old_strides;
  for (int i = 0; i < from.rank(); ++i) {
    if (from[i] == 1) continue;
    old_shape.push_back(from[i]);
    old_strides.push_back(strides[i]);
  }
  int oi = 0, ni = 0;
  while (oi < old_shape.rank() && ni < to.rank()) {
    int oj = oi + 1, nj = ni + 1;
    int64_t old_product = old_shape[oi], new_product = to[ni];
    while (old_product != new_product) {
      if (new_product < old_product) {
        new_product *= to[nj++];
      } else {
        if (old_strides[oj - 1] != old_strides[oj] * old_shape[oj]) return false;
        old_product *= old_shape[oj++];
      }
    }
    for (int k = oi; k + 1 < oj; ++k)
      if (old_strides[k] != old_strides[k + 1] * old_shape[k + 1]) return false;
    int64_t stride = old_strides[oj - 1];
    for (int k = nj - 1; k >= ni; --k) {
      (*result)[k] = stride;
      stride *= to[k];
    }
    oi = oj;
    ni = nj;
  }
  for (; ni < to.rank(); ++ni) (*result)[ni] = 0;  // trailing axes of extent 1
  return true;
}

}  // namespace sporkle::tensor
