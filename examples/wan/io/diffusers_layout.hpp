#pragma once
#include "wan/io/layout.hpp"

namespace wan {

/// As the diffusers library saves a pipeline: a folder for each part, with a config.json of its own.
Layout diffusers_layout();

}  // namespace wan
