#pragma once
#include <optional>
#include <string>

#include "wan/cli/words.hpp"

namespace wan {

/// Adds --device and --backend, which are equivalent: Gloo transfers CPU tensors, NCCL CUDA tensors.
void add_device_flags(boost::program_options::options_description& flags,
                      const std::string& by_default = "cuda where there is one");

/// cpu or cuda; nullopt if neither flag is given. Throws UsageError if they contradict each other.
std::optional<std::string> read_device(const Words& words);

}  // namespace wan
