#pragma once
#include <ATen/autocast_mode.h>

namespace wanpar {

/// RAII: disables autocast's cache of cast weights. Cached casts would outlive resharded weights, and a
/// weight that was cast without gradients would be reused where gradients are required.
class NoAutocastCache {
 public:
  NoAutocastCache() { at::autocast::set_autocast_cache_enabled(false); }
  ~NoAutocastCache() { at::autocast::set_autocast_cache_enabled(was_enabled_); }
  NoAutocastCache(const NoAutocastCache&) = delete;
  NoAutocastCache& operator=(const NoAutocastCache&) = delete;

 private:
  bool was_enabled_ = at::autocast::is_autocast_cache_enabled();
};

}  // namespace wanpar
