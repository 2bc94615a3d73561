// The measures, by file.
#pragma once

#include "harness/finding.h"

namespace facts {

List<Measure> device_measures();
List<Measure> memory_measures();
List<Measure> cache_measures();
List<Measure> product_measures();
List<Measure> exponential_measures();
List<Measure> latency_measures();

}  // namespace facts
