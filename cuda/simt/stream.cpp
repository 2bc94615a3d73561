#include "simt/stream.h"

#include <mutex>

struct lacuna_simt_stream {
  lacuna_simt_config config;
  mutable std::mutex lock;
  lacuna_simt_counters counters;
};

namespace lacuna_simt {

lacuna_simt_config stream_config(const lacuna_simt_stream* stream) {
  if (stream != nullptr) return stream->config;
  lacuna_simt_config config;
  lacuna_simt_default_config(&config);
  return config;
}

void add_counters(lacuna_simt_counters& total, const lacuna_simt_counters& more) {
  total.launches += more.launches;
  total.mma_macs += more.mma_macs;
  total.copy_bytes += more.copy_bytes;
  total.bank_conflicts += more.bank_conflicts;
  total.barriers += more.barriers;
  total.collectives += more.collectives;
}

void count_work(lacuna_simt_stream* stream, const lacuna_simt_counters& work) {
  if (stream == nullptr) return;
  const std::lock_guard<std::mutex> guard(stream->lock);
  add_counters(stream->counters, work);
}

}  // namespace lacuna_simt

extern "C" void lacuna_simt_default_config(lacuna_simt_config* config) {
  *config = {};
  config->policy = LACUNA_SIMT_ROUND_ROBIN;
  config->async_mode = LACUNA_SIMT_EARLY;
  config->threads = 0;
  config->resident = 1;
  config->sm_count = 4;
  config->smem_limit_bytes = 227 * 1024;
}

extern "C" lacuna_simt_stream* lacuna_simt_stream_create(const lacuna_simt_config* config) {
  if (config == nullptr || config->policy < 0 || config->policy > 3 || config->async_mode < 0 ||
      config->async_mode > 2 || config->threads < 0 || config->threads > 4096 || config->resident < 1 ||
      config->resident > 256 || config->sm_count < 1 || config->smem_limit_bytes < 0 ||
      config->smem_limit_bytes > 227 * 1024) {
    return nullptr;
  }
  lacuna_simt_stream* stream = new lacuna_simt_stream{};
  stream->config = *config;
  return stream;
}

extern "C" void lacuna_simt_stream_destroy(lacuna_simt_stream* stream) { delete stream; }

extern "C" void lacuna_simt_stream_counters(const lacuna_simt_stream* stream, lacuna_simt_counters* counters) {
  const std::lock_guard<std::mutex> guard(stream->lock);
  *counters = stream->counters;
}

extern "C" void lacuna_simt_stream_reset_counters(lacuna_simt_stream* stream) {
  const std::lock_guard<std::mutex> guard(stream->lock);
  stream->counters = {};
}
