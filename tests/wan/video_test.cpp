#include "wan/io/video.hpp"

#include <doctest/doctest.h>

#include <memory>
#include <vector>

#include "wan/file_size_limit.hpp"
#include "wan/fixture.hpp"

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libswscale/swscale.h>

namespace video_test {}

namespace fs = std::filesystem;
namespace {

struct Decoded {
  std::vector<at::Tensor> frames = {};  // [height, width, 3] uint8
  std::map<std::string, std::string> metadata = {};
  double fps = 0;
  AVPixelFormat format = AV_PIX_FMT_NONE;
};

at::Tensor to_rgb(const AVFrame& picture) {
  auto pixels = torch::empty({picture.height, picture.width, 3}, torch::kByte);
  auto* converter = sws_getContext(picture.width, picture.height, AV_PIX_FMT_YUV420P, picture.width,
                                   picture.height, AV_PIX_FMT_RGB24, SWS_BICUBIC, nullptr, nullptr, nullptr);
  const int* bt709 = sws_getCoefficients(SWS_CS_ITU709);
  sws_setColorspaceDetails(converter, bt709, 0, bt709, 1, 0, 1 << 16, 1 << 16);
  uint8_t* target[] = {pixels.data_ptr<uint8_t>()};
  const int stride[] = {3 * picture.width};
  sws_scale(converter, picture.data, picture.linesize, 0, picture.height, target, stride);
  sws_freeContext(converter);
  return pixels;
}

Decoded read_video(const fs::path& path) {
  AVFormatContext* demuxer = nullptr;
  REQUIRE(avformat_open_input(&demuxer, path.c_str(), nullptr, nullptr) == 0);
  REQUIRE(avformat_find_stream_info(demuxer, nullptr) >= 0);
  const auto* parameters = demuxer->streams[0]->codecpar;
  REQUIRE(parameters->codec_id == AV_CODEC_ID_H264);
  Decoded decoded{.fps = av_q2d(demuxer->streams[0]->avg_frame_rate),
                  .format = static_cast<AVPixelFormat>(parameters->format)};
  const AVDictionaryEntry* tag = nullptr;
  while ((tag = av_dict_get(demuxer->metadata, "", tag, AV_DICT_IGNORE_SUFFIX)))
    decoded.metadata[tag->key] = tag->value;

  const auto* codec = avcodec_find_decoder(parameters->codec_id);
  auto* decoder = avcodec_alloc_context3(codec);
  avcodec_parameters_to_context(decoder, parameters);
  REQUIRE(avcodec_open2(decoder, codec, nullptr) == 0);
  auto* packet = av_packet_alloc();
  auto* picture = av_frame_alloc();
  for (bool more = true; more;) {
    more = av_read_frame(demuxer, packet) >= 0;
    avcodec_send_packet(decoder, more ? packet : nullptr);
    av_packet_unref(packet);
    while (avcodec_receive_frame(decoder, picture) == 0) decoded.frames.push_back(to_rgb(*picture));
  }
  av_frame_free(&picture);
  av_packet_free(&packet);
  avcodec_free_context(&decoder);
  avformat_close_input(&demuxer);
  return decoded;
}

/// Each frame has one colour, which changes from frame to frame: [3, 9, 32, 48].
at::Tensor coloured_frames() {
  const auto red = torch::linspace(-0.8, 0.8, 9), green = -red, blue = torch::full({9}, 0.3);
  return torch::stack({red, green, blue}).view({3, 9, 1, 1}).expand({3, 9, 32, 48});
}

}  // namespace

TEST_CASE("a video read back has the frames, size, rate, colours and metadata that were written") {
  const wan_test::Folder folder;
  const auto frames = coloured_frames();
  wan::write_video(folder / "a:b.mp4", frames,
                   {.fps = 16, .metadata = {{"title", "a fox, 狐"}, {"comment", "seed 7"}}});
  const auto decoded = read_video("file:" + (folder / "a:b.mp4").string());

  CHECK(decoded.fps == doctest::Approx(16));
  CHECK(decoded.format == AV_PIX_FMT_YUV420P);
  CHECK(decoded.metadata.at("title") == "a fox, 狐");
  CHECK(decoded.metadata.at("comment") == "seed 7");
  REQUIRE(decoded.frames.size() == 9);
  for (int64_t i = 0; i < 9; ++i) {
    REQUIRE((decoded.frames[i].sizes() == std::vector<int64_t>{32, 48, 3}));
    const auto found = decoded.frames[i].to(torch::kFloat).mean(at::IntArrayRef({0, 1}));
    const auto expected = (frames.select(1, i).mean(at::IntArrayRef({1, 2})) + 1) / 2 * 255;
    CHECK((found - expected).abs().max().item<float>() < 5);
  }
  CHECK(wan_test::files_in(folder) == 1);
}

TEST_CASE("a video of one frame is a video") {
  const wan_test::Folder folder;
  wan::write_video(folder / "one.mp4", torch::zeros({3, 1, 32, 32}));
  CHECK(read_video(folder / "one.mp4").frames.size() == 1);
}

TEST_CASE("a video that does not fit on the disk leaves no file and says so") {
  const wan_test::Folder folder;
  const auto noise = torch::rand({3, 9, 64, 64}) * 2 - 1;
  wan::write_video(folder / "whole.mp4", noise);
  const auto whole = fs::file_size(folder / "whole.mp4");
  fs::remove(folder / "whole.mp4");
  for (const rlim_t bytes : {rlim_t{1}, whole / 2, whole - 256}) {  // in the header, the frames, the trailer
    CAPTURE(bytes);
    const FileSizeLimit limit(bytes);
    CHECK_THROWS_WITH_AS(wan::write_video(folder / "full.mp4", noise),
                         doctest::Contains("bytes are free there"), wanpar::Error);
    CHECK(fs::is_empty(folder.path));
  }
}

TEST_CASE("a video is refused where its folder is missing or its size is odd") {
  const wan_test::Folder folder;
  CHECK_THROWS_WITH_AS(wan::write_video(folder / "no/a.mp4", torch::zeros({3, 1, 32, 32})),
                       doctest::Contains("No such file or directory"), wanpar::Error);
  CHECK_THROWS_WITH_AS(wan::write_video(folder / "a.mp4", torch::zeros({3, 1, 31, 32})),
                       doctest::Contains("[3, 1, 31, 32]"), wanpar::Error);
}

}  // namespace video_test
