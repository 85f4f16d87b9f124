#include "wan/io/video.hpp"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <array>
#include <cstring>
#include <memory>
#include <wanpar/core/error.hpp>

#include "wan/io/pixels.hpp"

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/opt.h>
#include <libswscale/swscale.h>
#include <wanpar/extend/files/part_file.hpp>
}

namespace wan {
namespace {

struct Free {
  void operator()(AVFormatContext* muxer) const {
    avio_closep(&muxer->pb);
    avformat_free_context(muxer);
  }
  void operator()(AVCodecContext* encoder) const { avcodec_free_context(&encoder); }
  void operator()(AVFrame* picture) const { av_frame_free(&picture); }
  void operator()(AVPacket* packet) const { av_packet_free(&packet); }
  void operator()(SwsContext* converter) const { sws_freeContext(converter); }
};
template <typename T>
using Owned = std::unique_ptr<T, Free>;

template <typename T>
Owned<T> own(T* pointer) {
  if (pointer == nullptr) throw std::bad_alloc();
  return Owned<T>(pointer);
}

const AVCodec* find_h264() {
  if (const auto* x264 = avcodec_find_encoder_by_name("libx264")) return x264;
  if (const auto* any = avcodec_find_encoder(AV_CODEC_ID_H264)) return any;
  throw wanpar::Error("FFmpeg's libavcodec has no H.264 encoder; install one that was built with libx264");
}

/// One MP4 file being encoded: frames go in, finish() makes the file valid; the caller commits it.
class Encoder {
 public:
  Encoder(const wanpar::PartFile& file, int64_t height, int64_t width, const VideoOptions& options)
      : file_(file) {
    open_muxer(options);
    open_encoder(static_cast<int>(height), static_cast<int>(width), options);
    open_stream(options);
    open_converter();
  }

  void add(const at::Tensor& pixels) {
    const std::array<const uint8_t*, 1> source = {pixels.const_data_ptr<uint8_t>()};
    const std::array<int, 1> stride = {3 * encoder_->width};
    check(av_frame_make_writable(picture_.get()));
    check(sws_scale(converter_.get(), source.data(), stride.data(), 0, encoder_->height, picture_->data,
                    picture_->linesize));
    picture_->pts = frames_++;
    encode(picture_.get());
  }

  void finish() {
    encode(nullptr);
    check(av_write_trailer(muxer_.get()));
    check(avio_closep(&muxer_->pb));
  }

 private:
  void open_muxer(const VideoOptions& options) {
    AVFormatContext* muxer = nullptr;
    const auto url = "file:" + file_.part().string();  // a colon in the path is not a protocol
    check(avformat_alloc_output_context2(&muxer, nullptr, "mp4", url.c_str()));
    muxer_ = own(muxer);
    for (const auto& [name, value] : options.metadata)
      check(av_dict_set(&muxer_->metadata, name.c_str(), value.c_str(), 0));
    check(avio_open(&muxer_->pb, url.c_str(), AVIO_FLAG_WRITE));
  }

  void open_encoder(int height, int width, const VideoOptions& options) {
    const auto* codec = find_h264();
    encoder_ = own(avcodec_alloc_context3(codec));
    encoder_->height = height;
    encoder_->width = width;
    encoder_->pix_fmt = AV_PIX_FMT_YUV420P;
    encoder_->time_base = {1, static_cast<int>(options.fps)};
    encoder_->framerate = {static_cast<int>(options.fps), 1};
    encoder_->colorspace = AVCOL_SPC_BT709;
    encoder_->color_primaries = AVCOL_PRI_BT709;
    encoder_->color_trc = AVCOL_TRC_BT709;
    encoder_->color_range = AVCOL_RANGE_MPEG;
    encoder_->flags |= AV_CODEC_FLAG_GLOBAL_HEADER;
    if (std::strcmp(codec->name, "libx264") == 0)
      check(av_opt_set(encoder_->priv_data, "crf", "10", 0));  // the official code's quality 8 of 10
    else
      encoder_->bit_rate = 4 * expected_video_bytes(options.fps, height, width);
    check(avcodec_open2(encoder_.get(), codec, nullptr));
  }

  void open_stream(const VideoOptions& options) {
    stream_ = avformat_new_stream(muxer_.get(), nullptr);
    if (stream_ == nullptr) throw std::bad_alloc();
    stream_->time_base = encoder_->time_base;
    stream_->avg_frame_rate = {static_cast<int>(options.fps), 1};
    check(avcodec_parameters_from_context(stream_->codecpar, encoder_.get()));
    AVDictionary* flags = nullptr;
    av_dict_set(&flags, "movflags", "+faststart", 0);
    const int result = avformat_write_header(muxer_.get(), &flags);
    av_dict_free(&flags);
    check(result);
  }

  void open_converter() {
    const auto width = encoder_->width, height = encoder_->height;
    converter_ =
        own(sws_getContext(width, height, AV_PIX_FMT_RGB24, width, height, AV_PIX_FMT_YUV420P,
                           SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INP, nullptr, nullptr, nullptr));
    const int* bt709 = sws_getCoefficients(SWS_CS_ITU709);
    constexpr int kFull = 1, kLimited = 0, kOne = 1 << 16;
    sws_setColorspaceDetails(converter_.get(), bt709, kFull, bt709, kLimited, 0, kOne, kOne);

    picture_ = own(av_frame_alloc());
    picture_->format = encoder_->pix_fmt;
    picture_->width = width;
    picture_->height = height;
    check(av_frame_get_buffer(picture_.get(), 0));
  }

  /// Sends one picture, or with nullptr the end, and writes what the encoder has ready.
  void encode(const AVFrame* picture) {
    check(avcodec_send_frame(encoder_.get(), picture));
    for (;;) {
      const int result = avcodec_receive_packet(encoder_.get(), packet_.get());
      if (result == AVERROR(EAGAIN) || result == AVERROR_EOF) return;
      check(result);
      packet_->duration = 1;
      av_packet_rescale_ts(packet_.get(), encoder_->time_base, stream_->time_base);
      packet_->stream_index = stream_->index;
      check(av_interleaved_write_frame(muxer_.get(), packet_.get()));
    }
  }

  /// Every libav call passes here; the file writer keeps its first error to itself until asked.
  void check(int result) const {
    if (result >= 0 && muxer_ && muxer_->pb != nullptr) result = muxer_->pb->error;
    if (result >= 0) return;
    std::array<char, AV_ERROR_MAX_STRING_SIZE> reason{};
    av_strerror(result, reason.data(), reason.size());
    wanpar::throw_write_error(file_.path(), reason.data());
  }

  const wanpar::PartFile& file_;
  Owned<AVFormatContext> muxer_;
  Owned<AVCodecContext> encoder_;
  Owned<SwsContext> converter_;
  Owned<AVFrame> picture_;
  Owned<AVPacket> packet_ = own(av_packet_alloc());
  AVStream* stream_ = nullptr;  // belongs to muxer_
  int64_t frames_ = 0;
};

/// libav tells its troubles to the screen; ours come as exceptions.
void silence_libav() { av_log_set_level(AV_LOG_QUIET); }

}  // namespace

int64_t expected_video_bytes(int64_t frames, int64_t height, int64_t width) {
  return frames * height * width / 2;  // half a byte a pixel: three times what detailed real footage takes
}

void write_video(const wanpar::PartFile& file, const at::Tensor& frames, const VideoOptions& options) {
  if (frames.dim() != 4 || frames.size(0) != 3 || frames.size(2) % 2 != 0 || frames.size(3) % 2 != 0)
    throw wanpar::Error(fmt::format(
        "{} cannot be written: expected [3, frames, height, width] of even height and width, found [{}]",
        file.path().string(), fmt::join(frames.sizes(), ", ")));
  silence_libav();
  Encoder encoder(file, frames.size(2), frames.size(3), options);
  for (int64_t i = 0; i < frames.size(1); ++i) encoder.add(to_pixels(frames.select(1, i)));
  encoder.finish();
}

void write_video(const std::filesystem::path& path, const at::Tensor& frames, const VideoOptions& options) {
  wanpar::PartFile file(path);
  write_video(file, frames, options);
  file.commit();
}

}  // namespace wan
