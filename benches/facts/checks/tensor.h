// A small tensor [batch][heads][len][dim] whose 16-bit elements are all different and not zero, and the boxes of it.
#pragma once

#include "harness/machine.h"
#include "harness/tile.h"
#include "sm90/forward/instantiate.h"

namespace facts {

constexpr int kBoxColumns = 64;

struct Tensor {
  int batch;
  int heads;
  int len;
  int dim;
  bool len_before_heads;  // lies as [batch][len][heads][dim]

  lacuna_strides strides() const {
    const int64_t d = dim;
    const int64_t all = d * heads * len;
    return len_before_heads ? lacuna_strides{all, d, d * heads} : lacuna_strides{all, d * len, d};
  }
  size_t count() const { return static_cast<size_t>(batch) * heads * len * dim; }
  size_t place(int c0, int c1, int c2, int c3) const {
    const lacuna_strides s = strides();
    return static_cast<size_t>(c3 * s.batch + c2 * s.head + c1 * s.seq + c0);
  }
  bool inside(int c0, int c1, int c2, int c3, int visible_len) const {
    return c0 >= 0 && c0 < dim && c1 >= 0 && c1 < visible_len && c2 >= 0 && c2 < heads && c3 >= 0 && c3 < batch;
  }
  std::vector<uint16_t> contents() const {
    std::vector<uint16_t> values(count());
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint16_t>(i + 1);
    return values;
  }
  // As the launcher makes maps (sm90/forward/instantiate.h); rows from visible_len on are outside.
  TensorMap map(const void* base, int visible_len, int box_rows, bool bfloat16) const {
    lacuna_shape shape = {};
    shape.head_dim = dim;
    shape.dtype = bfloat16 ? LACUNA_BF16 : LACUNA_F16;
    TensorMap made;
    const sm90::Heads from{base, strides(), batch, heads, visible_len};
    if (sm90::encode_heads(&made, shape, from, box_rows) != LACUNA_OK) give_up("%s", last_error());
    return made;
  }
};

struct Coordinates {
  int at[4];
};

}  // namespace facts
