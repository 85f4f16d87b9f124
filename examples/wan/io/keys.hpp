#pragma once
#include <cstdint>
#include <string>

namespace wan {

/// The networks of a checkpoint.
enum class Part { transformer, text_encoder, vae };

/// The official Wan name of a parameter, given the name that diffusers (for umT5: transformers) has for it.
/// The official VAE numbers its layers through, so there it matters how many residual blocks a level has.
std::string official_name(Part part, std::string name, int64_t residual_blocks = 2);

/// The other way: the name that diffusers or transformers have for the parameter with this official name.
std::string diffusers_name(Part part, std::string name, int64_t residual_blocks = 2);

}  // namespace wan
