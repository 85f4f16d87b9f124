#pragma once
#include <ATen/autocast_mode.h>

namespace wanpar {

/// While it lives, autocast keeps no converted weights: they would outlive weights that come and go, and one
/// converted without gradients would be used again where gradients are wanted.
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
