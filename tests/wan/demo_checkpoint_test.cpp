#include "wan/demo/checkpoint.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "wan/demo/vocabulary.hpp"
#include "wan/fixture.hpp"
#include "wan/io/checkpoint.hpp"
#include "wan/io/keys.hpp"
#include "wan/io/load.hpp"
#include "wan/io/write_checkpoint.hpp"
#include "wan/model/transformer.hpp"
#include "wan/pipeline/noise.hpp"
#include "wan/reference.hpp"
#include "wan/text/encode.hpp"
#include "wan/text/negative_prompt.hpp"
#include "wan/text/tokenizer.hpp"
#include "wan/text/tokenizer_model.hpp"
#include "wan/text/umt5.hpp"
#include "wan/text/vocabulary.hpp"
#include "wan/vae/decoder.hpp"

namespace fs = std::filesystem;

namespace demo_checkpoint_test {
namespace {

std::string bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

TEST_CASE("the demo checkpoint opens as a diffusers folder and fills every network") {
  const torch::NoGradGuard no_grad;
  const wan_test::Folder folder;
  wan::demo::write_checkpoint(folder / "demo");
  const wan::Checkpoint checkpoint(folder / "demo");
  CHECK(checkpoint.layout().name == std::string("diffusers"));
  CHECK(checkpoint.flow_shift() == 3.0);

  wan::Umt5 encoder(checkpoint.text_encoder_config());
  wan::Transformer transformer(checkpoint.transformer_config());
  wan::Vae vae(checkpoint.vae_config());
  wan::load(*encoder, checkpoint.text_encoder(), {});
  wan::load(*transformer, checkpoint.transformer(), {});
  wan::load(*vae, checkpoint.vae(), {});

  const wan::Tokenizer tokenizer(checkpoint.tokenizer());
  const auto text = wan::encode_text(
      encoder, {tokenizer.encode("A red fox in the snow"), tokenizer.encode(wan::kNegativePrompt)});
  CHECK((text[0] - text[1]).abs().max().item<float>() > 0.1);

  const auto noise =
      wan::initial_noise(checkpoint.vae_config(), {.width = 64, .height = 48, .frames = 5}, 7).unsqueeze(0);
  CHECK(transformer(noise, torch::full({1}, 500.0), text.narrow(0, 0, 1)).isfinite().all().item<bool>());
  const auto frames = vae->decode(noise);
  CHECK((frames.sizes() == std::vector<int64_t>{1, 3, 5, 48, 64}));
  CHECK((frames.abs() > 0.99).to(torch::kFloat).mean().item<float>() < 0.2);  // few pixels are saturated
  CHECK(frames.std().item<float>() > 0.1);
}

TEST_CASE("the demo checkpoint is the same whenever it is written") {
  const wan_test::Folder folder;
  wan::demo::write_checkpoint(folder / "a");
  wan::demo::write_checkpoint(folder / "b");
  int64_t files = 0, bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder / "a")) {
    if (!entry.is_regular_file()) continue;
    const auto other = folder / "b" / fs::relative(entry.path(), folder / "a");
    CAPTURE(other);
    CHECK(bytes_of(entry.path()) == bytes_of(other));
    files += 1, bytes += static_cast<int64_t>(entry.file_size());
  }
  CHECK(files == 11);
  CHECK(bytes < 8 << 20);
}

TEST_CASE("the demo vocabulary has umT5's special ids and knows the words of its sentences") {
  const wan_test::Folder folder;
  std::ofstream(folder / "spiece.model", std::ios::binary)
      << wan::sentencepiece_model(wan::demo::vocabulary());
  const wan::Tokenizer tokenizer(folder / "spiece.model");
  CHECK((tokenizer.encode("") == std::vector<int64_t>{1}));
  for (const auto* text : {"A red fox runs through fresh snow.", wan::kNegativePrompt}) {
    const auto ids = tokenizer.encode(text);
    CHECK(ids.back() == 1);
    CHECK(std::count(ids.begin(), ids.end(), 3) == 0);
  }
  const auto unknown = tokenizer.encode("ж");
  CHECK(std::count(unknown.begin(), unknown.end(), 3) == 1);
}

TEST_CASE("parameter names go to diffusers and back") {
  using wan::Part;
  const auto both = [](Part part, const std::string& official, const std::string& diffusers) {
    CAPTURE(official);
    CHECK(wan::diffusers_name(part, official) == diffusers);
    CHECK(wan::official_name(part, diffusers) == official);
  };
  both(Part::transformer, "blocks.0.self_attn.o.bias", "blocks.0.attn1.to_out.0.bias");
  both(Part::transformer, "blocks.1.norm3.weight", "blocks.1.norm2.weight");
  both(Part::transformer, "head.modulation", "scale_shift_table");
  both(Part::transformer, "blocks.1.modulation", "blocks.1.scale_shift_table");
  both(Part::transformer, "time_projection.1.weight", "condition_embedder.time_proj.weight");
  both(Part::text_encoder, "token_embedding.weight", "shared.weight");
  both(Part::text_encoder, "norm.weight", "encoder.final_layer_norm.weight");
  both(Part::text_encoder, "blocks.0.norm2.weight", "encoder.block.0.layer.1.layer_norm.weight");
  both(Part::text_encoder, "blocks.0.ffn.gate.0.weight",
       "encoder.block.0.layer.1.DenseReluDense.wi_0.weight");
  both(Part::vae, "conv2.weight", "post_quant_conv.weight");
  both(Part::vae, "decoder.conv1.bias", "decoder.conv_in.bias");
  both(Part::vae, "decoder.middle.0.residual.2.weight", "decoder.mid_block.resnets.0.conv1.weight");
  both(Part::vae, "decoder.upsamples.7.resample.1.weight",
       "decoder.up_blocks.1.upsamplers.0.resample.1.weight");
  both(Part::vae, "encoder.downsamples.2.resample.1.bias", "encoder.down_blocks.2.resample.1.bias");
  both(Part::vae, "conv1.weight", "quant_conv.weight");
  both(Part::vae, "decoder.upsamples.4.shortcut.bias", "decoder.up_blocks.1.resnets.0.conv_shortcut.bias");
  CHECK(wan::official_name(Part::vae, "decoder.up_blocks.1.resnets.0.conv_shortcut.bias", 1) ==
        "decoder.upsamples.3.shortcut.bias");
  CHECK(wan::diffusers_name(Part::vae, "decoder.upsamples.2.resample.1.weight", 1) ==
        "decoder.up_blocks.0.upsamplers.0.resample.1.weight");
}

TEST_CASE("a vocabulary in the form of transformers is what transformers itself writes") {
  const auto folder = wan_test::kData / "diffusers" / "tokenizer";
  auto expected = nlohmann::json::parse(bytes_of(folder / "tokenizer.json"));
  const auto vocabulary = wan::read_sentencepiece(folder / "spiece.model").pieces;
  auto made = nlohmann::json::parse(wan::tokenizer_json(vocabulary));
  for (const auto* setting : {"truncation", "padding"})
    expected[setting] = nullptr;  // set by a call, not by the model
  auto &expected_pieces = expected["model"]["vocab"], &pieces = made["model"]["vocab"];
  REQUIRE(pieces.size() == expected_pieces.size());
  for (size_t i = 0; i < pieces.size(); ++i) {
    CHECK(pieces[i][0] == expected_pieces[i][0]);
    CHECK(std::abs(pieces[i][1].get<double>() - expected_pieces[i][1].get<double>()) < 1e-6);
  }
  pieces = expected_pieces;
  CHECK(made == expected);
}

TEST_CASE("a vocabulary gives the same ids in both of its forms") {
  const wan_test::Folder folder;
  wan::write_tokenizer(folder.path, wan::demo::vocabulary());
  const wan::Tokenizer model(folder / "tokenizer/spiece.model"), json(folder / "tokenizer/tokenizer.json");
  for (const auto* text : {"A red fox runs  through fresh snow.", "Zoë's  x", "", wan::kNegativePrompt})
    CHECK(model.encode(text) == json.encode(text));
}

}  // namespace demo_checkpoint_test
