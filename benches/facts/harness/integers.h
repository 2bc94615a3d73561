// Inputs of the checks: small integers, so that 16-bit floats hold them and f32 sums of their products are exact in
// any order.
#pragma once

#include <vector>

#include "ptx/machine.h"

namespace facts {

using namespace LACUNA_NS;

// Bits that look random.
__host__ __device__ inline uint32_t mixed(uint32_t x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

// A row-major matrix.
struct Matrix {
  int rows;
  int columns;
  std::vector<int> values;

  Matrix(int row_count, int column_count)
      : rows(row_count), columns(column_count), values(static_cast<size_t>(row_count) * column_count) {}
  int& at(int row, int column) { return values[static_cast<size_t>(row) * columns + column]; }
  int at(int row, int column) const { return values[static_cast<size_t>(row) * columns + column]; }
};

// Values in -range..=range that depend on the place only.
inline Matrix integers(uint32_t seed, int rows, int columns, int range) {
  Matrix matrix(rows, columns);
  for (size_t i = 0; i < matrix.values.size(); ++i) {
    matrix.values[i] = static_cast<int>(mixed(static_cast<uint32_t>(i) + seed * 0x9e3779b9u) % (2 * range + 1)) - range;
  }
  return matrix;
}

// The bits of an integer that T holds exactly: |value| <= 256 (bf16) or 2048 (f16).
template <class T>
uint16_t integer_bits(int value) {
  if (value == 0) return 0;
  constexpr int kMantissa = IsBFloat16<T>::kValue ? 7 : 10;
  constexpr int kBias = IsBFloat16<T>::kValue ? 127 : 15;
  const uint32_t magnitude = static_cast<uint32_t>(value < 0 ? -value : value);
  const int exponent = 31 - __builtin_clz(magnitude);
  const uint32_t fraction = (magnitude << kMantissa >> exponent) & ((1u << kMantissa) - 1);
  return static_cast<uint16_t>((value < 0 ? 0x8000u : 0) | static_cast<uint32_t>(exponent + kBias) << kMantissa |
                               fraction);
}

template <class T>
std::vector<T> elements(const Matrix& matrix) {
  std::vector<T> to(matrix.values.size());
  for (size_t i = 0; i < to.size(); ++i) to[i].bits = integer_bits<T>(matrix.values[i]);
  return to;
}

inline std::vector<float> floats(const Matrix& matrix) {
  return std::vector<float>(matrix.values.begin(), matrix.values.end());
}

template <class T>
const char* type_name() {
  return IsBFloat16<T>::kValue ? "bf16" : "f16";
}

}  // namespace facts
