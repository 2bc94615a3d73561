#include "simt/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "simt/launch.h"

namespace lacuna_simt {

namespace {

// The text lies on the heap: the library's thread storage is static (`current_worker` asks for that), and a process
// that loads the library late has room for a few hundred bytes of it.
struct ErrorText {
  char* memory = nullptr;
  ~ErrorText() { free(memory); }
};
thread_local ErrorText error_text;

const char* policy_name(int policy) {
  static const char* const names[] = {"round_robin", "random_lane", "warp_first", "priority"};
  return names[policy & 3];
}

const char* async_name(int mode) {
  static const char* const names[] = {"late", "early", "mixed", "?"};
  return names[mode & 3];
}

}  // namespace

void record_failure(Worker& worker, const char* text) {
  Launch& launch = *worker.launch;
  worker.failed = true;
  const std::lock_guard<std::mutex> guard(launch.failure_lock);
  if (launch.failure[0] == 0) {
    const lacuna_simt_config& config = launch.config;
    snprintf(launch.failure, sizeof launch.failure,
             "kernel %s: %s [replay: seed=%llu policy=%s async=%s resident=%d threads=%d random_blocks=%d]",
             launch.name, text, static_cast<unsigned long long>(config.seed), policy_name(config.policy),
             async_name(config.async_mode), config.resident, config.threads, config.random_blocks);
  }
  launch.failed.store(true);
}

void fail(int line, const char* format, ...) {
  Worker& worker = *current_worker;
  const Fiber& self = *worker.current;
  char message[1024];
  va_list values;
  va_start(values, format);
  vsnprintf(message, sizeof message, format, values);
  va_end(values);
  char text[1536];
  char where[32] = {0};
  if (line > 0) snprintf(where, sizeof where, ", line %d", line);
  snprintf(text, sizeof text, "block %lld, thread %d (warp %d, lane %d)%s: %s",
           static_cast<long long>(self.block->index), self.thread, self.warp->index, self.lane, where, message);
  record_failure(worker, text);
  void* abandoned = nullptr;
  lacuna_simt_switch(&abandoned, worker.main_stack_pointer);
  __builtin_unreachable();
}

void abort_out_of_memory(const char* what) {
  fprintf(stderr, "lacuna SIMT host: out of memory for %s\n", what);
  abort();
}

int32_t set_error(int32_t status, const char* format, ...) {
  if (error_text.memory == nullptr) error_text.memory = static_cast<char*>(malloc(kFailureBytes));
  if (error_text.memory == nullptr) return status;
  va_list values;
  va_start(values, format);
  vsnprintf(error_text.memory, kFailureBytes, format, values);
  va_end(values);
  return status;
}

const char* last_error() { return error_text.memory == nullptr ? "" : error_text.memory; }

}  // namespace lacuna_simt
