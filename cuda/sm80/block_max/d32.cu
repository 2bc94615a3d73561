#include "sm80/block_max/instantiate.h"
#include "sm80/block_max/launch.h"

int32_t LACUNA_NS::sm80::block_max_d32(const lacuna_block_max_params& params, void* stream) {
  return block_max_of<32>("sm80_block_max_d32_f16", "sm80_block_max_d32_bf16", params, stream);
}
