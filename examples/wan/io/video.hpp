#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <wanpar/extend/files/part_file.hpp>

namespace wan {

struct VideoOptions {
  int64_t fps = 16;
  std::map<std::string, std::string> metadata = {};  ///< names that MP4 players know: title, comment, ...
};

/// Writes `frames` [3, frames, height, width] in [-1, 1] as an MP4: H.264, yuv420p, BT.709, moov atom in
/// front. The file appears whole or not at all. Throws Error when height or width is odd, FFmpeg has no H.264
/// encoder, or the disk refuses.
void write_video(const std::filesystem::path& path, const at::Tensor& frames,
                 const VideoOptions& options = {});
/// The same, for the caller to commit.
void write_video(const wanpar::PartFile& file, const at::Tensor& frames, const VideoOptions& options = {});

/// A cautious guess of the size of such a file, in bytes.
int64_t expected_video_bytes(int64_t frames, int64_t height, int64_t width);

}  // namespace wan
