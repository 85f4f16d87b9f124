#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

namespace wanpar {

/// The states of LibTorch's default random generators: the CPU's, and the device's.
class RandomState {
 public:
  static RandomState now(at::Device device);
  void restore() const;
  bool operator==(const RandomState& other) const;

 private:
  struct One {
    at::Device device;
    at::Tensor state;
  };
  std::vector<One> states_;
};

}  // namespace wanpar
