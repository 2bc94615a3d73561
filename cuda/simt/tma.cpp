// cp.async.bulk.tensor: checked and copied at issue, map included: a map that is a kernel's parameter is gone when the
// thread that issued exits.
#include "simt/tma.h"

#include "simt/bulk_operation.h"
#include "simt/memory.h"

namespace lacuna_simt {

void tensor_load(uint32_t destination, const TensorMap& map, uint32_t barrier, const int32_t* at, int rank, int line) {
  BulkOperation operation = {};
  operation.kind = BulkKind::kTensorLoad;
  operation.box = tensor_box(map, at, rank, "TMA load", line);
  operation.shared = destination;
  operation.bytes = box_bytes(operation.box);
  operation.barrier = barrier;
  operation.line = line;
  shared_pointer(destination, operation.bytes, box_alignment(operation.box), "TMA load", line);
  const TensorSpan source = box_span(operation.box);
  if (source.bytes > 0 && checking()) check_source(source.first, source.bytes, "TMA load", line);
  issue_bulk_load(operation, "TMA load");
}

void tensor_store(const TensorMap& map, uint32_t source, const int32_t* at, int rank, int line) {
  BulkOperation operation = {};
  operation.kind = BulkKind::kTensorStore;
  operation.box = tensor_box(map, at, rank, "TMA store", line);
  operation.shared = source;
  operation.bytes = box_bytes(operation.box);
  operation.line = line;
  shared_pointer(source, operation.bytes, box_alignment(operation.box), "TMA store", line);
  const TensorSpan destination = box_span(operation.box);
  if (destination.bytes > 0 && checking()) {
    check_destination(destination.first, destination.bytes, "TMA store", line);
  }
  issue_bulk_store(operation, "TMA store");
}

}  // namespace lacuna_simt
