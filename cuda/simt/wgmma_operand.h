// The shared-memory operands of wgmma: which 16-byte chunks a matrix descriptor names.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace lacuna_simt {

// 8 elements of an operand, as the offset in the block's shared memory over 16.
using Chunk = uint16_t;

constexpr int kWgmmaRows = 64;   // of A and of the accumulator
constexpr int kWgmmaDepth = 16;  // k values of one instruction
constexpr int kMaxWgmmaColumns = 256;
constexpr int kMaxWgmmaChunks = kMaxWgmmaColumns * kWgmmaDepth / 8;

// K-major: chunk 2r + h holds the k values 8h .. 8h + 7 of row r (a row of A, a column of B).
void k_major_chunks(uint64_t descriptor, int rows, const char* operand, Chunk* chunks, int line);
// MN-major: chunk k * (columns / 8) + c holds the columns 8c .. 8c + 7 of k.
void mn_major_chunks(uint64_t descriptor, int columns, const char* operand, Chunk* chunks, int line);

}  // namespace lacuna_simt
