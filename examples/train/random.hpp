#pragma once
#include <cstdint>

namespace wan::train {

/// What random numbers are for: each use has a stream of its own.
enum class Stream : uint64_t { scenes, views, weights, vae_noise, choices, flow_noise };

/// Random numbers that are the same on every machine: what belongs to sample `index` of a stream depends on
/// nothing else. SplitMix64, Steele et al. 2014.
class Random {
 public:
  Random(uint64_t seed, Stream stream, uint64_t index) : state_(seed) {
    state_ = next() ^ static_cast<uint64_t>(stream);
    state_ = next() ^ index;
  }

  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// In [low, high).
  double between(double low, double high) {
    return low + (high - low) * static_cast<double>(next() >> 11) * 0x1p-53;
  }
  /// 0 .. count - 1.
  int64_t below(int64_t count) { return static_cast<int64_t>(next() % static_cast<uint64_t>(count)); }
  bool chance(double probability) { return between(0, 1) < probability; }

 private:
  uint64_t state_;
};

}  // namespace wan::train
