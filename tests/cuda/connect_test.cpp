#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <torch/cuda.h>
#include <wanpar/launch/connect.hpp>

#include <cstdlib>

#include "cuda.hpp"
#include "worlds.hpp"

namespace connect_test {

TEST_CASE("connect() alone, as torchrun would start it, takes the device and moves nothing" *
          doctest::skip(no_cuda())) {
  if (is_one_of_several_processes()) return;
  const std::pair<const char*, const char*> environment[] = {
      {"RANK", "0"}, {"WORLD_SIZE", "1"}, {"LOCAL_RANK", "0"}, {"LOCAL_WORLD_SIZE", "1"}};
  for (auto& [name, value] : environment) setenv(name, value, 1);
  auto place = wanpar::find_place();
  CHECK(place.source == "torchrun");
  auto world = wanpar::connect({.backend = wanpar::Backend::nccl});
  for (auto& [name, value] : environment) unsetenv(name);
  CHECK(world.size() == 1);
  auto x = at::ones({5}, kCuda);
  CHECK(world.all_reduce(x).get().is_same(x));
  if (torch::cuda::device_count() < 2) return;  // a single one may be that of each rank
  CHECK_THROWS_WITH(wanpar::connect({.backend = wanpar::Backend::nccl,
                                     .place = wanpar::Place{.world_size = 100, .local_size = 100}}),
                    doctest::Contains("Not enough GPUs available: 100 ranks on this node"));
}

}  // namespace connect_test
