// says: what stands left of | is no module
#include <wanpar/strategy/sharded_params.hpp>
auto wrapped = 5 | wanpar::sharded_params({});
