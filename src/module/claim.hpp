#pragma once
#include <wanpar/module/parameters.hpp>

#include <unordered_set>

namespace wanpar {

/// The right to a module's parameters, whose memory comes and goes on one rank's word. Throws Error where
/// another wrapper, or another rank of this process, has one of them.
class Claim {
 public:
  explicit Claim(const NamedTensors& parameters);
  ~Claim();
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

 private:
  std::unordered_set<const void*> mine_;
};

}  // namespace wanpar
