#include "wan/cli/degrees.hpp"

#include <fmt/format.h>

#include <wanpar/core/error.hpp>

namespace wan {
namespace {

int64_t largest_divisor_up_to(int64_t number, int64_t limit) {
  for (int64_t divisor = limit; divisor > 1; --divisor)
    if (number % divisor == 0) return divisor;
  return 1;
}

/// A divisor of `ranks` that shares the heads evenly; else one that shares them unevenly.
int64_t choose_ulysses(int64_t ranks, int64_t heads) {
  for (int64_t divisor = heads; divisor > 1; --divisor)
    if (ranks % divisor == 0 && heads % divisor == 0) return divisor;
  return largest_divisor_up_to(ranks, heads);
}

/// What is left for the degrees that nobody requested; 0 when the requested ones do not divide the world.
int64_t ranks_left(int64_t world, const RequestedDegrees& requested) {
  const auto taken = requested.cfg.value_or(1) * requested.ulysses.value_or(1) * requested.ring.value_or(1) *
                     requested.data.value_or(1) * requested.pipeline.value_or(1) *
                     requested.patch.value_or(1);
  return world % taken == 0 ? world / taken : 0;
}

/// `--cfg_size 1 x --ulysses_size 2 x --ring_size 2`, as the user would write it.
std::string as_flags(const Degrees& degrees) {
  const auto rare = [](const char* flag, int64_t degree) {
    return degree > 1 ? fmt::format("{} {} x ", flag, degree) : "";
  };
  return fmt::format("{}{}{}--cfg_size {} x --ulysses_size {} x --ring_size {}",
                     rare("--data_parallel_size", degrees.data), rare("--pipeline_size", degrees.pipeline),
                     rare("--patch_parallel_size", degrees.patch), degrees.cfg, degrees.ulysses,
                     degrees.ring);
}

}  // namespace

Degrees choose_degrees(int64_t world, int64_t heads, const RequestedDegrees& requested, Guidance guidance) {
  if (guidance == Guidance::off && requested.cfg.value_or(1) > 1)
    throw wanpar::Error(fmt::format(
        "--cfg_size {} needs guidance, but --sample_guide_scale switches it off; leave --cfg_size out",
        *requested.cfg));
  if (requested.patch.value_or(1) > 1 && requested.ring.value_or(1) > 1)
    throw wanpar::Error(fmt::format(
        "--ring_size {} with --patch_parallel_size {}: patches are attended to over the ranks in the "
        "place of a ring; let --ulysses_size share each of them",
        *requested.ring, *requested.patch));
  auto left = ranks_left(world, requested);
  const auto take = [&left](int64_t degree) { return left /= degree, degree; };

  Degrees chosen;
  chosen.data = requested.data.value_or(1);
  chosen.pipeline = requested.pipeline.value_or(1);
  chosen.patch = requested.patch.value_or(1);
  chosen.cfg =
      requested.cfg ? *requested.cfg : take(guidance == Guidance::on && left > 0 && left % 2 == 0 ? 2 : 1);
  chosen.ulysses = requested.ulysses ? *requested.ulysses : take(left > 0 ? choose_ulysses(left, heads) : 1);
  chosen.ring = requested.ring ? *requested.ring : take(left > 0 && chosen.patch == 1 ? left : 1);

  if (chosen.ranks() != world)
    throw wanpar::Error(fmt::format("{} is {}, but {} {} started", as_flags(chosen), chosen.ranks(), world,
                                    world == 1 ? "rank was" : "ranks were"));
  return chosen;
}

std::string describe(const Degrees& degrees) {
  const auto counted = [](int64_t count, const char* one, const char* many) {
    return fmt::format("{} {}", count, count == 1 ? one : many);
  };
  const auto rare = [](int64_t degree, const char* what) {
    return degree > 1 ? fmt::format("{} {} x ", degree, what) : "";
  };
  return fmt::format("{}: {}{} x {}{}{} Ulysses x {} ring", counted(degrees.ranks(), "rank", "ranks"),
                     rare(degrees.data, "prompts at a time"),
                     counted(degrees.cfg, "guidance group", "guidance groups"),
                     rare(degrees.pipeline, "pipeline stages"), rare(degrees.patch, "patches"),
                     degrees.ulysses, degrees.ring);
}

}  // namespace wan
