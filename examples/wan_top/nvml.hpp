#pragma once
#include <memory>
#include <string>
#include <vector>

#include "wan_top/reading.hpp"

namespace wan_top {

/// NVIDIA's management library, opened at run time: building needs neither its header nor a driver.
class Nvml {
 public:
  /// nullptr if the library is not installed; throws std::runtime_error if it is installed but cannot be
  /// used.
  static std::unique_ptr<Nvml> open();
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  /// A device that does not answer is listed with its fault.
  std::vector<Device> devices() const;

 private:
  struct Functions;
  explicit Nvml(std::unique_ptr<Functions> functions);

  std::unique_ptr<Functions> call_;
};

}  // namespace wan_top
