// Streams of the SIMT host: a machine configuration and work counters. Launches run at once, in order.
#pragma once

#include "lacuna_kernels.h"

namespace lacuna_simt {

// The configuration of a stream, or the default one for null.
lacuna_simt_config stream_config(const lacuna_simt_stream* stream);
void add_counters(lacuna_simt_counters& total, const lacuna_simt_counters& more);
void count_work(lacuna_simt_stream* stream, const lacuna_simt_counters& work);

}  // namespace lacuna_simt
