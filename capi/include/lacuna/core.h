// Errors, devices, streams. Included by lacuna.h, which says the rules.
#ifndef LACUNA_CORE_H
#define LACUNA_CORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum lacuna_status {
  LACUNA_OK = 0,
  LACUNA_ERROR_NULL = 1,            // a null pointer where one is needed
  LACUNA_ERROR_STRUCT = 2,          // struct_size is no size of that struct, or a field is set that this version lacks
  LACUNA_ERROR_HANDLE = 3,          // no handle, a destroyed one, or one of another kind
  LACUNA_ERROR_SHAPE = 4,           // a tensor, list or buffer has the wrong size or strides
  LACUNA_ERROR_VALUE = 5,           // a number or option is outside its range
  LACUNA_ERROR_DEVICE = 6,          // memory, plan or stream of another device
  LACUNA_ERROR_UNSUPPORTED = 7,     // a valid request that no kernel serves yet
  LACUNA_ERROR_NO_KERNEL = 8,       // nothing was built for this GPU
  LACUNA_ERROR_UNAVAILABLE = 9,     // no such device, no driver, or not in this build
  LACUNA_ERROR_LIST = 10,           // an index list from the host breaks a rule
  LACUNA_ERROR_OUT_OF_MEMORY = 11,  // a device allocation failed
  LACUNA_ERROR_CUDA = 12,           // the CUDA driver or runtime refused, perhaps over an earlier kernel
  LACUNA_ERROR_SIMT = 13,           // the SIMT host found an error in a kernel
  LACUNA_ERROR_PANIC = 14           // a defect of this library
} lacuna_status;

typedef struct lacuna_device lacuna_device;
typedef struct lacuna_stream lacuna_stream;
typedef struct lacuna_plan lacuna_plan;
typedef struct lacuna_schedule lacuna_schedule;
typedef struct lacuna_columns lacuna_columns;
typedef struct lacuna_gate lacuna_gate;
typedef struct lacuna_gate_cache lacuna_gate_cache;
typedef struct lacuna_s2_cache lacuna_s2_cache;
typedef struct lacuna_hyper lacuna_hyper;

// The version of the library at run time: major << 16 | minor << 8 | patch.
uint32_t lacuna_version(void);

// The machines that this build has kernels for: "simt", "cuda" or "simt, cuda". Never null.
const char* lacuna_build(void);

// The name of a status, for example "LACUNA_ERROR_SHAPE"; "unknown status" for any other number. Never null.
const char* lacuna_status_name(lacuna_status status);

// What the last failed call of this thread said; empty if none failed. Valid until the next failure on this thread.
const char* lacuna_last_error(void);

typedef struct lacuna_device_info {
  uint32_t struct_size;
  int32_t is_simt;  // 1: the SIMT host
  int32_t ordinal;  // number of the GPU; -1 on the SIMT host
  int32_t reserved;
  char name[128];          // "simt", or for example "cuda:0 NVIDIA H200"
  char choice[256];        // one sentence: why this device was chosen
  char architectures[64];  // what the kernels were built for
} lacuna_device_info;

// Sets struct_size and the defaults. The same function exists for every struct; size is sizeof *info.
// _STRUCT for a size that is no multiple of 8 in 8..=4096.
lacuna_status lacuna_device_info_init(lacuna_device_info* info, size_t size);

// Opens a device: "auto" (GPU 0 if there is one that this build serves, else the SIMT host), "simt", "cuda" (GPU 0) or
// "cuda:N". Nothing takes the place of a GPU that is asked for by name.
// _VALUE for another text, _UNAVAILABLE without the device, its driver or its kernels, _NO_KERNEL for a GPU that the
// kernels were not built for.
lacuna_status lacuna_device_open(const char* name, lacuna_device** device);

// Describes a device. Texts that are too long are cut.
lacuna_status lacuna_device_describe(lacuna_device* device, lacuna_device_info* info);

lacuna_status lacuna_device_destroy(lacuna_device* device);

// A queue of work of its own; on CUDA it does not synchronise with the default stream. _CUDA.
lacuna_status lacuna_stream_create(lacuna_device* device, lacuna_stream** stream);

// Somebody else's CUstream (or cudaStream_t) of the device's primary context; null is the legacy default stream. It is
// never destroyed here, and must outlive the handle and every object made on it. The SIMT host has no foreign streams:
// there, null is a stream of its own, and anything else is _VALUE. _DEVICE for a stream of another device or context.
lacuna_status lacuna_stream_wrap(lacuna_device* device, void* cu_stream, lacuna_stream** stream);

// Waits until all work on the stream is done. _CUDA, perhaps for an earlier kernel.
lacuna_status lacuna_stream_synchronize(lacuna_stream* stream);

// Work counted on a stream of the SIMT host.
typedef struct lacuna_counters {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t launches;        // kernels
  uint64_t mma_macs;        // multiply-adds of matrix instructions
  uint64_t copy_bytes;      // bytes moved by copy instructions
  uint64_t bank_conflicts;  // extra shared-memory cycles of matrix loads and stores
} lacuna_counters;

lacuna_status lacuna_counters_init(lacuna_counters* counters, size_t size);

// The counts since the stream was made. _UNSUPPORTED on CUDA.
lacuna_status lacuna_stream_counters(lacuna_stream* stream, lacuna_counters* counters);

lacuna_status lacuna_stream_destroy(lacuna_stream* stream);

#ifdef __cplusplus
}
#endif

#endif
