// The machine on which the facts are checked: memory and launches. A GPU, or the SIMT host, which proves that the
// expectations of the checks are those of the library's tests. Errors end the process with a line (give_up).
#pragma once

#include <vector>

#include "harness/report.h"
#include "ptx/launch.h"

namespace facts {

using namespace LACUNA_NS;

// Null, or why nothing can run.
const char* missing_device();

// Checks are repeated: on a GPU a race may show the next time, on the SIMT host each round has its own schedule.
int rounds();
void start_round(int round);
void* stream();

void* allocate(size_t bytes);
void release(void* pointer);
void copy_to_device(void* to, const void* from, size_t bytes);
void copy_to_host(void* to, const void* from, size_t bytes);
void finish(const char* kernel);  // waits for what was launched

// An array in device memory. Bytes start as `fill`.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t count, unsigned char fill = 0xCD) : count_(count) {
    data_ = static_cast<T*>(allocate(count * sizeof(T)));
    const std::vector<unsigned char> bytes(count * sizeof(T), fill);
    copy_to_device(data_, bytes.data(), bytes.size());
  }
  explicit Buffer(const std::vector<T>& values) : count_(values.size()) {
    data_ = static_cast<T*>(allocate(count_ * sizeof(T)));
    copy_to_device(data_, values.data(), count_ * sizeof(T));
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { release(data_); }

  T* data() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> to(count_);
    copy_to_host(to.data(), data_, count_ * sizeof(T));
    return to;
  }

 private:
  T* data_;
  size_t count_;
};

// Runs a kernel to its end.
template <auto kKernel, class P>
void run(const char* name, int blocks, int threads, size_t smem_bytes, const P& params) {
  if (launch<kKernel>(name, blocks, threads, smem_bytes, stream(), params) != LACUNA_OK) give_up("%s", last_error());
  finish(name);
}

}  // namespace facts
