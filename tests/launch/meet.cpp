// Meets the other ranks, checks that they are all there, and says so: what tests/launch/launch.py starts many
// of.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <csignal>
#include <cstring>
#include <wanpar/launch/connect.hpp>

namespace {

int handled = 0;

}  // namespace

int main(int argc, char** argv) {
  try {
    bool has_handler = argc > 1 && std::strcmp(argv[1], "--handler") == 0;
    if (has_handler) std::signal(SIGPIPE, [](int) { ++handled; });
    wanpar::ConnectOptions options{.timeout = std::chrono::seconds(4)};
    bool is_again = argc > 1 && std::strcmp(argv[1], "--again") == 0;
    if (argc > 1 && std::strcmp(argv[1], "--nccl") == 0) options.backend = wanpar::Backend::nccl;
    auto place = wanpar::find_place();
    auto world = wanpar::connect(options);
    auto ranks = world.all_gather(at::tensor({int64_t{world.rank()}})).get();
    if (!ranks.equal(at::arange(world.size()))) throw wanpar::Error("the ranks are not those of the world");
    if (is_again) wanpar::connect(options);
    if (world.size() > 1) std::raise(SIGPIPE);  // as a write to a rank that has gone does
    if (handled != has_handler) throw wanpar::Error("a handler for SIGPIPE was replaced");
    fmt::print("rank {} of {} by {}\n", world.rank(), world.size(), place.source);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
