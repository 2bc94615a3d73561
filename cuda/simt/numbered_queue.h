// A queue whose elements keep the number they got on arrival.
#pragma once

#include <stdint.h>

#include <vector>

namespace lacuna_simt {

template <class T>
class NumberedQueue {
 public:
  bool empty() const { return first_ == end_; }
  uint32_t size() const { return end_ - first_; }
  uint32_t end() const { return end_; }  // number of the next element
  T& front() { return (*this)[first_]; }
  T& operator[](uint32_t number) { return ring_[number & mask_]; }
  const T& operator[](uint32_t number) const { return ring_[number & mask_]; }

  T& push(const T& element) {
    if (size() == ring_.size()) grow();
    return ring_[end_++ & mask_] = element;
  }
  void pop() { ++first_; }
  void reset() { first_ = end_ = 0; }

 private:
  void grow() {
    const uint32_t size = ring_.empty() ? 16 : 2 * static_cast<uint32_t>(ring_.size());
    std::vector<T> larger(size);
    for (uint32_t number = first_; number != end_; ++number) larger[number & (size - 1)] = ring_[number & mask_];
    ring_.swap(larger);
    mask_ = size - 1;
  }

  std::vector<T> ring_;  // a power of two
  uint32_t mask_ = 0;
  uint32_t first_ = 0;
  uint32_t end_ = 0;
};

}  // namespace lacuna_simt
