// cp.async.bulk and cp.reduce.async.bulk between runs of bytes.
#include "simt/bulk.h"

#include "simt/bulk_operation.h"
#include "simt/error.h"
#include "simt/memory.h"

namespace lacuna_simt {

namespace {

constexpr uint32_t kAlignment = 16;

BulkOperation checked(BulkKind kind, const void* global, uint32_t shared, int bytes, const char* what, int line) {
  if (bytes < 0 || static_cast<uint32_t>(bytes) % kAlignment != 0) {
    fail(line, "%s: %d bytes, not a multiple of %u", what, bytes, kAlignment);
  }
  if (reinterpret_cast<uintptr_t>(global) % kAlignment != 0) {
    fail(line, "%s: global address %p is not %u-byte aligned", what, global, kAlignment);
  }
  BulkOperation operation = {};
  operation.kind = kind;
  operation.global = const_cast<void*>(global);
  operation.shared = shared;
  operation.bytes = static_cast<uint32_t>(bytes);
  operation.line = line;
  shared_pointer(shared, operation.bytes, kAlignment, what, line);
  return operation;
}

void store(BulkKind kind, void* destination, uint32_t source, int bytes, const char* what, int line) {
  BulkOperation operation = checked(kind, destination, source, bytes, what, line);
  if (bytes > 0 && checking()) check_destination(destination, operation.bytes, what, line);
  issue_bulk_store(operation, what);
}

}  // namespace

void bulk_copy_in(uint32_t destination, const void* source, int bytes, uint32_t barrier, int line) {
  BulkOperation operation = checked(BulkKind::kLoad, source, destination, bytes, "bulk load", line);
  operation.barrier = barrier;
  if (bytes > 0 && checking()) check_source(source, operation.bytes, "bulk load", line);
  issue_bulk_load(operation, "bulk load");
}

void bulk_copy_out(void* destination, uint32_t source, int bytes, int line) {
  store(BulkKind::kStore, destination, source, bytes, "bulk store", line);
}

void bulk_reduce_f32(float* destination, uint32_t source, int bytes, int line) {
  store(BulkKind::kAddF32, destination, source, bytes, "bulk addition", line);
}

}  // namespace lacuna_simt
