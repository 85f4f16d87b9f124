#pragma once
#include <memory>
#include <string>
#include <vector>

#include "wan_top/reading.hpp"

namespace wan_top {

/// NVIDIA's management library, opened at run time: no header of it, and no driver, is needed to build this.
class Nvml {
 public:
  /// Nothing where there is no such library; throws std::runtime_error where it is there and refuses.
  static std::unique_ptr<Nvml> open();
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  /// A device that does not answer is there with its fault.
  std::vector<Device> devices() const;

 private:
  struct Functions;
  explicit Nvml(std::unique_ptr<Functions> functions);

  std::unique_ptr<Functions> call_;
};

}  // namespace wan_top
