#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

#include <optional>
#include <vector>

namespace wanpar {

/// The right to a module's parameters, whose memory comes and goes on one rank's word, and the duty to
/// average their gradients over some groups. Throws Error where another wrapper, or another rank of this
/// process, has one of them.
class Claim {
 public:
  Claim(const NamedTensors& parameters, std::vector<Communicator> averaged_over);
  ~Claim();
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

 private:
  std::vector<at::Tensor> mine_;  // held, so that no other tensor comes to lie at a claimed address
};

/// The groups over which the gradient of a claimed parameter is averaged; nothing where none has claimed it.
std::optional<std::vector<Communicator>> claimed(const at::Tensor& parameter);

}  // namespace wanpar
