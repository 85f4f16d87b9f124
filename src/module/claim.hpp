#pragma once
#include <wanpar/module/parameters.hpp>

#include <vector>

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
  std::vector<at::Tensor> mine_;  // held, so that no other tensor comes to lie at a claimed address
};

}  // namespace wanpar
