#pragma once
#include <optional>
#include <string>

#include "wan/cli/words.hpp"

namespace wan {

/// Adds --device and --backend, which say the same from two sides: Gloo moves the CPU's tensors, NCCL CUDA's.
void add_device_flags(boost::program_options::options_description& flags,
                      const std::string& by_default = "cuda where there is one");

/// cpu or cuda; none where neither flag says. Throws UsageError where they contradict one another.
std::optional<std::string> read_device(const Words& words);

}  // namespace wan
