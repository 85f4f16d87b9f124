#pragma once
#include <string>

namespace wan {

/// The networks of a checkpoint.
enum class Part { transformer, text_encoder, vae };

/// The official Wan name of a parameter, given the name that diffusers (for umT5: transformers) has for it.
std::string official_name(Part part, std::string name);

}  // namespace wan
