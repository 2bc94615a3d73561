// Which device it is.
#include <stdio.h>
#include <string.h>

#include "measures/measures.h"
#include "measures/timing.h"

namespace facts {

namespace {

struct Attribute {
  cudaDeviceAttr attribute;
  const char* name;
  double unit_value;
  const char* unit;
};

constexpr Attribute kAttributes[] = {
    {cudaDevAttrMultiProcessorCount, "multiprocessors", 1, ""},
    {cudaDevAttrClockRate, "sm_clock_most", 1000, "MHz"},
    {cudaDevAttrMemoryClockRate, "memory_clock_most", 1000, "MHz"},
    {cudaDevAttrGlobalMemoryBusWidth, "memory_bus", 1, "bit"},
    {cudaDevAttrL2CacheSize, "l2_cache", 1 << 20, "MiB"},
    {cudaDevAttrMaxSharedMemoryPerMultiprocessor, "shared_memory_multiprocessor", 1024, "KiB"},
    {cudaDevAttrMaxSharedMemoryPerBlockOptin, "shared_memory_block", 1024, "KiB"},
};

void ask_nvidia_smi() {
  constexpr const char* kFields =
      "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu,ecc.mode.current";
  char command[256];
  snprintf(command, sizeof command, "nvidia-smi --query-gpu=%s --format=csv,noheader 2>/dev/null", kFields);
  FILE* const answer = popen(command, "r");
  if (answer == nullptr) return;
  char line[512];
  if (fgets(line, sizeof line, answer) != nullptr) {
    line[strcspn(line, "\n")] = 0;
    report_text("nvidia_smi", line, kFields);
  }
  pclose(answer);
}

void describe_device() {
  cudaDeviceProp properties;
  require(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  report_text("device_name", properties.name, "cudaGetDeviceProperties");
  int driver = 0;
  int runtime = 0;
  require(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  require(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
  report_measure("cuda_driver", driver, "", "cudaDriverGetVersion");
  report_measure("cuda_runtime", runtime, "", "cudaRuntimeGetVersion");
  for (const Attribute& asked : kAttributes) {
    int value = 0;
    require(cudaDeviceGetAttribute(&value, asked.attribute, 0), asked.name);
    report_measure(asked.name, value / asked.unit_value, asked.unit, "cudaDeviceGetAttribute");
  }
  ask_nvidia_smi();
}

constexpr Measure kMeasures[] = {
    {"device", "name, multiprocessors, clocks, caches", describe_device},
};

}  // namespace

List<Measure> device_measures() { return list_of(kMeasures); }

}  // namespace facts
