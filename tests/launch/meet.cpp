// Meets the other ranks, checks that they are all there, and says so: what tests/launch/launch.py starts many
// of.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstring>
#include <wanpar/launch/connect.hpp>

int main(int argc, char** argv) {
  try {
    wanpar::ConnectOptions options{.timeout = std::chrono::seconds(4)};
    if (argc > 1 && std::strcmp(argv[1], "--nccl") == 0) options.backend = wanpar::Backend::nccl;
    auto place = wanpar::find_place();
    auto world = wanpar::connect(options);
    auto ranks = world.all_gather(at::tensor({int64_t{world.rank()}})).get();
    if (!ranks.equal(at::arange(world.size()))) throw wanpar::Error("the ranks are not those of the world");
    fmt::print("rank {} of {} by {}\n", world.rank(), world.size(), place.source);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
