#pragma once
#include "wan/io/layout.hpp"

namespace wan {

/// As Wan-AI publishes its models: one config.json, and the text encoder and the VAE as PyTorch files.
Layout official_layout();

}  // namespace wan
