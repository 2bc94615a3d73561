// What a bulk operation does to memory. A store has two halves: its source may be read long before its destination is
// written.
#pragma once

#include "simt/bulk_operation.h"

namespace lacuna_simt {

// The blame for a fault in them is the issuing thread's; any thread, or none, may be current.
void perform_load(Block& block, const BulkOperation& operation);
void read_source(Block& block, const BulkOperation& operation, unsigned char* staged);
void write_destination(Block& block, const BulkOperation& operation, const unsigned char* staged);
// Nobody may rely on what a load will overwrite.
void poison_destination(Block& block, const BulkOperation& operation);

}  // namespace lacuna_simt
