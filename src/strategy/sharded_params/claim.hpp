#pragma once
#include <wanpar/module/parameters.hpp>

#include <vector>

namespace wanpar {

/// The right to a module's parameters. Throws Error where another wrapper, or another rank of this process,
/// has one of them.
class Claim {
 public:
  explicit Claim(const NamedTensors& parameters);
  ~Claim();
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

 private:
  void release();
  std::vector<at::Tensor> mine_;
};

}  // namespace wanpar
