#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <doctest/doctest.h>

#include <filesystem>

#include "../wan/reference.hpp"
#include "train/shapes.hpp"
#include "train/vae_task.hpp"
#include "wan/pipeline/guidance.hpp"
#include "wan/pipeline/sampling.hpp"
#include "wan/scheduler/flow.hpp"
#include "wan/text/encode.hpp"
#include "wan/text/tokenizer.hpp"
#include "wan/text/umt5.hpp"

// The trained model in examples/train/model.
using namespace wan_test;

namespace model_test {
namespace {

const std::filesystem::path kModel = TRAINED_MODEL;

/// What tests/reference/make_trained.py kept of diffusers' run, and its settings.
const std::map<std::string, at::Tensor>& kept() {
  static const auto tensors = wanpar::read_safetensors(kData / "trained.safetensors");
  return tensors;
}
constexpr const char* kPrompt = "a red ball moves left on a dark blue background";
constexpr int64_t kSteps = 6;
constexpr double kGuidance = 4;

const wan::Checkpoint& model() {
  static const wan::Checkpoint opened(kModel);
  return opened;
}

wan::Vae decoder() {
  wan::Vae vae(model().vae_config());
  wan::load(*vae, model().vae(), {.ignore_prefixes = wan::kEncoderPrefixes});
  return vae;
}

at::Tensor padded(const at::Tensor& rows) {
  return at::constant_pad_nd(rows, {0, 0, 0, 512 - rows.size(0)}).unsqueeze(0);
}

}  // namespace

TEST_CASE("the trained model is a folder in float16 of at most 20 MB") {
  uintmax_t bytes = 0;
  for (const auto& file : std::filesystem::recursive_directory_iterator(kModel))
    if (file.is_regular_file()) bytes += file.file_size();
  CHECK(bytes <= 20'000'000);
  for (const auto& part : {model().transformer(), model().text_encoder(), model().vae()})
    for (const auto& [name, entry] : part) {
      CAPTURE(name);
      CHECK((entry.tensor.scalar_type() == at::kHalf));
    }
}

TEST_CASE("the trained model's texts are those of transformers") {
  const c10::InferenceMode inference;
  wan::Umt5 encoder(model().text_encoder_config());
  wan::load(*encoder, model().text_encoder(), {});
  const wan::Tokenizer tokenizer(model().tokenizer());
  const auto texts = wan::encode_text(encoder, {tokenizer.encode(kPrompt), tokenizer.encode("")});
  CHECK(difference(texts[0].unsqueeze(0), padded(kept().at("text"))) < 1e-4);
  CHECK(difference(texts[1].unsqueeze(0), padded(kept().at("negative_text"))) < 1e-4);
}

TEST_CASE("of the same embeddings, noise and sigmas diffusers makes the same latents and frames") {
  const c10::InferenceMode inference;
  const auto shift = model().flow_shift();
  REQUIRE(shift.has_value());
  const auto sigmas = wan::diffusers_unipc_schedule(kSteps, *shift).sigmas;
  CHECK(difference(at::tensor(sigmas, at::kDouble).to(at::kFloat), kept().at("sigmas")) < 1e-6);

  wan::Transformer transformer(model().transformer_config());
  wan::load(*transformer, model().transformer(), {});
  const auto scheduler = wan::make_scheduler("diffusers_unipc", kSteps, *shift);
  const auto velocity =
      wan::guided(wan::conditioned(transformer, padded(kept().at("text"))),
                  wan::conditioned(transformer, padded(kept().at("negative_text"))), kGuidance);
  const auto latents = wan::sample(kept().at("noise"), *scheduler, velocity);
  CHECK(difference(latents, kept().at("latents")) < 1e-3);

  using at::indexing::Slice;
  const auto every_second = Slice(at::indexing::None, at::indexing::None, 2);
  const auto frames = decoder()->decode(latents).index(
      {Slice(), Slice(), Slice(at::indexing::None, at::indexing::None, 4), every_second, every_second});
  CHECK(difference(frames, kept().at("frames").to(at::kFloat)) < 2e-3);  // which float16 holds to 5e-4
}

TEST_CASE("the trained VAE gives unseen clips back at 28 dB and more") {
  const c10::InferenceMode inference;
  wan::VaeEncoder encoder(model().vae_config());
  wan::load(*encoder, model().vae(), {.ignore_prefixes = {"decoder.", "conv2."}});
  auto vae = decoder();
  for (uint64_t i = 0; i < 4; ++i) {
    CAPTURE(i);
    const auto clip =
        wan::train::draw({wan::train::scene_of(1, i)}, {wan::train::whole_view(128, 17)}, at::kCPU);
    CHECK(wan::train::psnr(vae->decode(encoder->encode(clip)), clip).item<double>() > 28);
  }
}

}  // namespace model_test
