// stmatrix: ldmatrix the other way round. The thread whose address a row is counts as its writer.
#include "simt/stmatrix.h"

#include <string.h>

#include "simt/banks.h"
#include "simt/collective.h"
#include "simt/error.h"
#include "simt/memory.h"
#include "simt/proxy.h"

namespace lacuna_simt {

namespace {

struct MatrixStore {
  uint32_t address;
  const uint32_t* d;
  bool transpose;
};

// Stores row `lane % 8` of matrix `lane / 8`, on behalf of the lane that gives its address.
void store_row(Warp& warp, int lane, const uint16_t* row, uint32_t address, int line) {
  Worker& worker = *warp.block->worker;
  Fiber* const running = worker.current;
  worker.current = warp.block->fibers[static_cast<size_t>(warp.index * 32 + lane)];
  memcpy(shared_pointer(address, 16, 16, "stmatrix", line), row, 16);
  proxy_generic_write(address, 16, line);
  worker.current = running;
}

void finish_store(Warp& warp, uint32_t, int line) {
  const MatrixStore* lanes[32];
  for (int lane = 0; lane < 32; ++lane) lanes[lane] = static_cast<const MatrixStore*>(warp.arguments[lane]);
  uint64_t extra = 0;
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t element[8][8];
    for (int lane = 0; lane < 32; ++lane) {
      const uint32_t pair = lanes[lane]->d[matrix];
      const int row = lane / 4;
      const int column = 2 * (lane % 4);
      const bool transpose = lanes[lane]->transpose;
      (transpose ? element[column][row] : element[row][column]) = static_cast<uint16_t>(pair);
      (transpose ? element[column + 1][row] : element[row][column + 1]) = static_cast<uint16_t>(pair >> 16);
    }
    uint32_t addresses[8];
    for (int row = 0; row < 8; ++row) {
      addresses[row] = lanes[8 * matrix + row]->address;
      store_row(warp, 8 * matrix + row, element[row], addresses[row], line);
    }
    extra += static_cast<uint64_t>(bank_conflicts(addresses));
  }
  warp.block->worker->counters.bank_conflicts += extra;
}

}  // namespace

void warp_stmatrix(uint32_t address, const uint32_t* d, bool transpose, int line) {
  MatrixStore store{address, d, transpose};
  collective("stmatrix", 0xffffffffu, &store, finish_store, line);
}

}  // namespace lacuna_simt
