#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace wan {

/// The parallel degrees: the two branches of guidance, then heads, then tokens in a ring; and, on request,
/// data parallelism over several prompts, the transformer's blocks, and displaced patches of the video.
struct Degrees {
  int64_t cfg = 1;
  int64_t ulysses = 1;
  int64_t ring = 1;
  int64_t data = 1;
  int64_t pipeline = 1;
  int64_t patch = 1;

  int64_t ranks() const { return cfg * ulysses * ring * data * pipeline * patch; }

  bool operator==(const Degrees&) const = default;
};

struct RequestedDegrees {
  std::optional<int64_t> cfg = {};
  std::optional<int64_t> ulysses = {};
  std::optional<int64_t> ring = {};
  std::optional<int64_t> data = {};
  std::optional<int64_t> pipeline = {};
  std::optional<int64_t> patch = {};
};

/// Whether every step computes one branch, or the guided and the unguided one.
enum class Guidance { off, on };

/// Degrees for `world` ranks and `heads` attention heads: those requested, the others chosen. Guidance gets
/// two groups if the number of remaining ranks is even, Ulysses as many ranks as divide the heads evenly, the
/// ring the rest; with patches the ring is 1. Throws Error if the degrees do not multiply to the world size,
/// for two groups with one branch, and for a ring within patches.
Degrees choose_degrees(int64_t world, int64_t heads, const RequestedDegrees& requested, Guidance guidance);

/// Human-readable: `4 ranks: 2 guidance groups x 2 Ulysses x 1 ring`.
std::string describe(const Degrees& degrees);

}  // namespace wan
