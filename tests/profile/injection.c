// A tool that attaches to NVTX ranges, as the protocol asks of one: it takes three functions of domains and writes what
// it hears, a line each, to the file that NVTX_TEST_LOG names. NVTX_TEST_DECLINE: it declines to attach.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void (*Function)(void);
typedef const void* (*Export)(uint32_t id);

struct Callbacks {
  size_t bytes;
  int (*table)(int module, Function*** table, unsigned* size);
};

struct VersionInfo {
  size_t bytes;
  uint32_t version, reserved;
  void (*set_version)(uint32_t version);
};

struct Attributes {
  uint16_t version, size;
  uint32_t category;
  int32_t color_type;
  uint32_t color;
  int32_t payload_type, reserved;
  uint64_t payload;
  int32_t message_type;
  const char* message;
};

static FILE* heard;
static int domain;

static void* create(const char* name) {
  fprintf(heard, "domain %s\n", name);
  fflush(heard);
  return &domain;
}

static int push(void* of, const struct Attributes* range) {
  const int as_expected = of == &domain && range->version == 3 && range->size == 48 && range->message_type == 1;
  fprintf(heard, "%s %s\n", as_expected ? "push" : "strange", range->message);
  fflush(heard);
  return 0;
}

static int pop(void* of) {
  fprintf(heard, "%s\n", of == &domain ? "pop" : "strange pop");
  fflush(heard);
  return 0;
}

int InitializeInjectionNvtx2(Export export) {
  const char* log = getenv("NVTX_TEST_LOG");
  heard = log ? fopen(log, "w") : NULL;
  if (!heard) return 0;
  if (getenv("NVTX_TEST_DECLINE")) {
    fprintf(heard, "declined\n");
    fclose(heard);
    return 0;
  }
  const struct Callbacks* callbacks = export(1);
  const struct VersionInfo* version = export(3);
  if (!callbacks || !version || version->version != 3 || export(2) != NULL) return 0;
  version->set_version(3);
  // Every module that the protocol names has its table, of the size that it names; others have none.
  static const unsigned kSizes[] = {0, 16, 9, 16, 7, 16, 7};
  Function** table = NULL;
  unsigned size = 0;
  for (int module = 1; module < 7; ++module) {
    if (!callbacks->table(module, &table, &size) || size != kSizes[module] || table[0] != NULL) return 0;
    for (unsigned place = 1; place < size; ++place) {
      if (table[place] == NULL) return 0;
    }
    if (table[size] != NULL) return 0;
  }
  if (callbacks->table(0, &table, &size) || callbacks->table(7, &table, &size) || callbacks->table(-1, NULL, NULL)) return 0;
  if (!callbacks->table(5, &table, NULL)) return 0;
  *table[4] = (Function)push;
  *table[5] = (Function)pop;
  *table[12] = (Function)create;
  return 1;
}
