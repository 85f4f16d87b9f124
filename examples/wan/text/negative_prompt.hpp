#pragma once

namespace wan {

/// The negative prompt that the official Wan code uses where the caller gives none.
extern const char* const kNegativePrompt;

}  // namespace wan
