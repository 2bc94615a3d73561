// The facts, by file.
#pragma once

#include "harness/finding.h"

namespace facts {

List<Fact> limit_facts();
List<Fact> product_facts();
List<Fact> attend_facts();
List<Fact> load_facts();
List<Fact> store_facts();
List<Fact> tile_facts();
List<Fact> bulk_facts();
List<Fact> mbarrier_facts();
List<Fact> turn_facts();
List<Fact> register_facts();
List<Fact> gather_facts();
List<Fact> pipeline_facts();

}  // namespace facts
