#pragma once
#include <filesystem>

namespace wan::demo {

/// Writes a whole text-to-video model of a few megabytes in the diffusers layout, to try the pipeline without
/// a download. Always the same values. Throws Error when the disk refuses.
void write_checkpoint(const std::filesystem::path& folder);

}  // namespace wan::demo
