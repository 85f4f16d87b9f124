#include "wan/setup/ranks.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <wanpar/core/agreement.hpp>

#include "wan/setup/report.hpp"

namespace wan::setup {
namespace {

using Clock = std::chrono::steady_clock;

/// The median of some calls, in seconds.
double time_of(const wanpar::Communicator& world, int calls, const std::function<void()>& call) {
  std::vector<double> times;
  call();
  for (int i = 0; i < calls; ++i) {
    world.barrier();
    const auto begin = Clock::now();
    call();
    times.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  std::nth_element(times.begin(), times.begin() + calls / 2, times.end());
  return times[static_cast<size_t>(calls / 2)];
}

/// Elements of a tensor of which each rank has as many.
using Operation = std::function<at::Tensor(const at::Tensor& x)>;

Finding operation(const wanpar::Communicator& world, const std::string& what, const Operation& run,
                  const Operation& expected) {
  constexpr int64_t kLarge = int64_t{1} << 20;
  const auto n = world.size();
  const auto sample = [&](int64_t each, int rank) {
    return (at::arange(each * n, at::kFloat).fmod(97) + static_cast<double>(rank)).to(world.device());
  };
  const auto small = sample(16, world.rank()), large = sample(kLarge / n, world.rank());
  const bool is_right = run(small).equal(expected(small).to(world.device()));
  if (!is_right)
    return fail(what, "its result is wrong",
                "the transport is broken: try --device cpu, or another network interface "
                "(GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)");
  const auto latency = time_of(world, 20, [&] { run(small).sum().item<float>(); });
  const auto time = time_of(world, 5, [&] { run(large).sum().item<float>(); });
  return ok(what, fmt::format("{:.0f} µs for 64 bytes a rank, {:.2f} GB/s for {:.1f} MB", latency * 1e6,
                              static_cast<double>(large.nbytes()) / time / 1e9,
                              static_cast<double>(large.nbytes()) / 1e6));
}

}  // namespace

Findings ranks(const wanpar::Communicator& world) {
  const int n = world.size(), rank = world.rank();
  const auto of_rank = [&](const at::Tensor& x, int r) { return x + static_cast<double>(r - rank); };
  const auto all = [&](const at::Tensor& x) {
    std::vector<at::Tensor> each;
    for (int r = 0; r < n; ++r) each.push_back(of_rank(x, r));
    return at::stack(each);
  };
  Findings found;
  found.push_back(operation(
      world, "all_reduce", [&](auto& x) { return world.all_reduce(x).get(); },
      [&](auto& x) { return all(x).sum(0); }));
  found.push_back(operation(
      world, "all_gather", [&](auto& x) { return world.all_gather(x).get(); },
      [&](auto& x) { return all(x).flatten(); }));
  found.push_back(operation(
      world, "reduce_scatter", [&](auto& x) { return world.reduce_scatter(x).get(); },
      [&](auto& x) { return all(x).sum(0).chunk(n)[rank]; }));
  found.push_back(operation(
      world, "all_to_all",
      [&](auto& x) {
        return world.all_to_all(x.view({n, -1}), 0, 1).get();
      },
      [&](auto& x) {
        return all(x).view({n, n, -1}).select(1, rank).reshape({1, -1});
      }));
  found.push_back(operation(
      world, "broadcast", [&](auto& x) { return world.broadcast(x, n - 1).get(); },
      [&](auto& x) { return of_rank(x, n - 1); }));
  const auto wait = time_of(world, 20, [&] { world.barrier(); });
  found.push_back(ok("barrier", fmt::format("{:.0f} µs", wait * 1e6)));
  return found;
}

Findings gathered(const wanpar::Communicator& world, const Findings& mine) {
  std::vector<Findings> all;
  for (auto& text : wanpar::all_gather_text(world, written(mine))) all.push_back(read(text));
  return of_all_ranks(all);
}

}  // namespace wan::setup
