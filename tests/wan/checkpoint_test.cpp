#include "wan/io/checkpoint.hpp"

#include <doctest/doctest.h>

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <wanpar/files/safetensors.hpp>

#include "wan/fixture.hpp"
#include "wan/io/load.hpp"

namespace fs = std::filesystem;
using wan_test::message_of;
using wan_test::says;

namespace checkpoint_test {
namespace {

/// A copy of a checkpoint, for a test to spoil.
struct Copy : wan_test::Folder {
  explicit Copy(const fs::path& original) {
    fs::copy(original, path, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  }

  std::string refusal() const {
    return message_of([&] { wan::Checkpoint{path}; });
  }
};

Copy diffusers() { return Copy(TEST_DATA "/diffusers"); }

/// The official folder; the transformer is written here, of the one tensor from which its shape is read.
Copy official() {
  Copy folder(TEST_DATA "/official");
  wanpar::write_safetensors(folder / "diffusion_pytorch_model.safetensors",
                            {{"text_embedding.0.weight", at::ones({128, 8})}});
  fs::create_directories(folder.path / "google" / "umt5-xxl");
  fs::copy(TEST_DATA "/diffusers/tokenizer/spiece.model", folder.path / "google" / "umt5-xxl");
  return folder;
}

void write(const fs::path& file, const std::string& text) { std::ofstream(file, std::ios::binary) << text; }

void replace(const fs::path& file, const std::string& from, const std::string& to) {
  std::ifstream stream(file);
  std::string text{std::istreambuf_iterator<char>(stream), {}};
  REQUIRE(text.find(from) != std::string::npos);
  write(file, text.replace(text.find(from), from.size(), to));
}

/// Splits the transformer of a diffusers folder into two shards and an index; `b_shard` is where the index
/// claims the tensors of the second to be.
void split_transformer(const Copy& folder, const std::string& b_shard) {
  const auto base = folder.path / "transformer";
  const auto whole = base / "diffusion_pytorch_model.safetensors";
  std::map<std::string, at::Tensor> a, b;
  std::string map;
  for (const auto& [name, tensor] : wanpar::read_safetensors(whole)) {
    const bool is_a = a.size() <= b.size();
    (is_a ? a : b).emplace(name, tensor);
    map += fmt::format("{}\"{}\": \"{}\"", map.empty() ? "" : ", ", name, is_a ? "a.safetensors" : b_shard);
  }
  wanpar::write_safetensors(base / "a.safetensors", a);
  wanpar::write_safetensors(base / "b.safetensors", b);
  write(base / "diffusion_pytorch_model.safetensors.index.json", "{\"weight_map\": {" + map + "}}");
  fs::remove(whole);
}

/// A module whose only parameter is `weight`.
struct Small : torch::nn::Module {
  Small() : parameter(register_parameter("weight", at::empty({2, 3}), false)) {}
  at::Tensor parameter;
};

}  // namespace

TEST_CASE("checkpoint: a diffusers folder opens with its shapes and with official names") {
  const wan::Checkpoint checkpoint(TEST_DATA "/diffusers");
  CHECK(checkpoint.layout().name == std::string("diffusers"));
  CHECK(checkpoint.flow_shift() == 3.0);
  CHECK(checkpoint.tokenizer().filename() == "tokenizer.json");

  const auto& transformer = checkpoint.transformer_config();
  CHECK(transformer.dim == 128);
  CHECK(transformer.heads == 4);
  CHECK(transformer.layers == 2);
  CHECK(transformer.ffn_dim == 288);
  CHECK(transformer.text_dim == 64);
  CHECK(checkpoint.vae_config().base_dim == 6);
  CHECK(checkpoint.vae_config().mean.size() == 16);
  const auto& text = checkpoint.text_encoder_config();
  CHECK(text.dim == 64);
  CHECK(text.heads == 4);
  CHECK(text.head_dim == 16);
  CHECK(text.ffn_dim == 96);
  CHECK(text.layers == 2);

  CHECK(checkpoint.transformer().size() == 2 * 27 + 15);
  CHECK(checkpoint.text_encoder().size() == 1 + 2 * 10 + 1);
  CHECK(checkpoint.vae().size() == 194);
  for (const auto* name : {"patch_embedding.weight", "time_embedding.2.bias", "time_projection.1.weight",
                           "text_embedding.0.weight", "blocks.1.self_attn.norm_q.weight",
                           "blocks.0.cross_attn.o.bias", "blocks.0.norm3.weight", "blocks.0.modulation",
                           "blocks.1.ffn.2.weight", "head.modulation", "head.head.weight"}) {
    CAPTURE(name);
    CHECK(checkpoint.transformer().contains(name));
  }
  for (const auto* name :
       {"conv1.weight", "conv2.bias", "encoder.conv1.weight", "encoder.downsamples.2.resample.1.weight",
        "encoder.head.2.bias", "decoder.middle.0.residual.0.gamma", "decoder.middle.1.to_qkv.weight",
        "decoder.middle.2.residual.6.bias", "decoder.upsamples.3.resample.1.weight",
        "decoder.upsamples.3.time_conv.weight", "decoder.upsamples.4.shortcut.weight",
        "decoder.upsamples.14.residual.2.weight", "decoder.head.0.gamma"}) {
    CAPTURE(name);
    CHECK(checkpoint.vae().contains(name));
  }
  for (const auto* name : {"token_embedding.weight", "norm.weight", "blocks.0.attn.q.weight",
                           "blocks.1.pos_embedding.embedding.weight", "blocks.0.ffn.gate.0.weight",
                           "blocks.0.ffn.fc2.weight", "blocks.1.norm2.weight"}) {
    CAPTURE(name);
    CHECK(checkpoint.text_encoder().contains(name));
  }
}

TEST_CASE(
    "checkpoint: an official folder opens, with the shapes that its config lacks read from the tensors") {
  const auto folder = official();
  const wan::Checkpoint checkpoint(folder.path);
  CHECK(checkpoint.layout().name == std::string("official"));
  CHECK(!checkpoint.flow_shift());
  CHECK(checkpoint.transformer_config().dim == 128);
  CHECK(checkpoint.transformer_config().text_dim == 8);
  CHECK(checkpoint.vae_config().base_dim == 6);
  CHECK(checkpoint.vae_config().channels == 16);
  const auto& text = checkpoint.text_encoder_config();
  CHECK(text.vocabulary == 20);
  CHECK(text.dim == 8);
  CHECK(text.heads == 3);
  CHECK(text.head_dim == 4);
  CHECK(text.ffn_dim == 10);
  CHECK(text.layers == 2);
}

TEST_CASE("checkpoint: the second name of a tied embedding is dropped") {
  const auto folder = diffusers();
  const auto file = folder.path / "text_encoder" / "model.safetensors";
  auto tensors = wanpar::read_safetensors(file);
  tensors["encoder.embed_tokens.weight"] = tensors.at("shared.weight");
  wanpar::write_safetensors(file, tensors);
  CHECK(wan::Checkpoint(folder.path).text_encoder().size() == 22);
  tensors.erase("shared.weight");
  wanpar::write_safetensors(file, tensors);
  CHECK(wan::Checkpoint(folder.path).text_encoder().contains("token_embedding.weight"));
}

TEST_CASE("checkpoint: shards give the tensors that the whole file gives") {
  const auto folder = diffusers();
  const auto whole = wan::Checkpoint(folder.path).transformer();
  split_transformer(folder, "b.safetensors");
  const auto split = wan::Checkpoint(folder.path).transformer();
  REQUIRE(split.size() == whole.size());
  for (const auto& [name, entry] : whole) CHECK(at::equal(split.at(name).tensor, entry.tensor));
}

TEST_CASE("checkpoint: shards must be there, be named plainly and hold what the index says") {
  for (const auto* name : {"../b.safetensors", "/etc/passwd", "..", "", "x\\n"}) {
    const auto folder = diffusers();
    split_transformer(folder, name);
    CHECK(says(folder.refusal(), "diffusion_pytorch_model.safetensors.index.json", "plain file name"));
  }
  const auto missing = diffusers();
  split_transformer(missing, "c.safetensors");
  CHECK(says(missing.refusal(), "transformer/c.safetensors is missing", "download"));
  const auto wrong = diffusers();
  split_transformer(wrong, "a.safetensors");
  CHECK(says(wrong.refusal(), "transformer/a.safetensors has no tensor '", "index.json"));
}

TEST_CASE("checkpoint: an index decides what is read, and a file beside it is not") {
  const auto folder = diffusers();
  const auto whole = wan::Checkpoint(folder.path).transformer();
  const auto base = folder.path / "transformer";
  split_transformer(folder, "b.safetensors");
  wanpar::write_safetensors(base / "diffusion_pytorch_model.safetensors", {{"stray", at::ones({2})}});
  const auto split = wan::Checkpoint(folder.path).transformer();
  REQUIRE(split.size() == whole.size());
  for (const auto& [name, entry] : whole) CHECK(at::equal(split.at(name).tensor, entry.tensor));
  for (const auto* map : {"{}", "[]", "null", "{\"a\": 3}", "{\"a\": [\"b\"]}"}) {
    write(base / "diffusion_pytorch_model.safetensors.index.json",
          fmt::format("{{\"weight_map\": {}}}", map));
    CHECK(says(folder.refusal(), "index.json"));
  }
}

TEST_CASE("checkpoint: models that are not built are refused by name") {
  struct Case {
    const char *file, *from, *to, *said;
  };
  const Case cases[] = {
      {"model_index.json", R"("boundary_ratio": null)", R"("boundary_ratio": 0.875)", "two transformers"},
      {"model_index.json", R"("boundary_ratio": null)", R"("boundary_ratio": 0)", "two transformers"},
      {"model_index.json", "\"transformer_2\": [\n    null", "\"transformer_2\": [\n    \"diffusers\"",
       "two transformers"},
      {"model_index.json", R"("expand_timesteps": false)", R"("expand_timesteps": true)", "TI2V-5B"},
      {"transformer/config.json", "{", R"({"quantization_config": {"quant_method": "gguf"},)", "quantised"},
      {"text_encoder/config.json", "{", R"({"quantization_config": {"load_in_8bit": true},)", "quantised"},
      {"transformer/config.json", "WanTransformer3DModel", "WanVACETransformer3DModel", "WanVACE"},
      {"transformer/config.json", R"("image_dim": null)", R"("image_dim": 1280)", "image-to-video"},
      {"transformer/config.json", R"("in_channels": 16)", R"("in_channels": 36)", "image-to-video"},
      {"vae/config.json", R"("is_residual": false)", R"("is_residual": true)", "Wan2.2 5B"},
      {"vae/config.json", R"("patch_size": null)", R"("patch_size": 2)", "Wan2.2 5B"},
      {"vae/config.json", "AutoencoderKLWan", "AutoencoderKL", "other VAEs"},
      {"text_encoder/config.json", R"("model_type": "umt5")", R"("model_type": "t5")", "other text encoders"},
      {"scheduler/scheduler_config.json", "flow_prediction", "epsilon", "flow"},
  };
  for (const auto& [file, from, to, said] : cases) {
    CAPTURE(to);
    const auto folder = diffusers();
    replace(folder.path / file, from, to);
    CHECK(says(folder.refusal(), file, said));
  }
  const auto twice = diffusers();
  fs::create_directory(twice.path / "transformer_2");
  CHECK(says(twice.refusal(), "transformer_2", "Wan2.2 A14B"));

  wan_test::Folder experts;
  fs::create_directory(experts / "high_noise_model");
  CHECK(says(message_of([&] { wan::Checkpoint{experts.path}; }), "Wan2.2 A14B"));
  wan_test::Folder small;
  write(small / "config.json", R"({"_class_name": "WanModel", "model_type": "ti2v"})");
  CHECK(says(message_of([&] { wan::Checkpoint{small.path}; }), "config.json", "TI2V-5B"));
}

TEST_CASE(
    "checkpoint: every number, list and text of a config is checked, with file, key, found and allowed") {
  struct Case {
    const char *file, *key;
    std::vector<const char*> values;
  };
  const std::vector<const char*> counts = {"-1",    "0",    "2.5", "1e30", "99999999999999999999",
                                           "\"4\"", "null", "[]",  "true"};
  std::vector<Case> cases = {
      {"transformer", "eps", {"-1", "2", "null", "\"x\"", "1e400"}},
      {"transformer", "patch_size", {"[1, 2, 4]", "2", "[]"}},
      {"transformer", "qk_norm", {"\"rms_norm\"", "3"}},
      {"transformer", "cross_attn_norm", {"false", "0"}},
      {"vae",
       "dim_mult",
       {"[]", "3", "[1, 2, -4, 4]", "[1, 2, 4, 4, 4, 4, 4]", "[1.5, 2, 4, 4]", "null", "[[1], 2, 4, 4]"}},
      {"vae", "temperal_downsample", {"[]", "[false]", "[0, 1, 1]", "null", "[false, true, true, true]"}},
      {"vae", "is_residual", {"1", "\"no\""}},
      {"vae", "latents_mean", {"[]", "[1]", "0", "null", "[\"a\"]"}},
      {"vae", "latents_std", {"[]", "[0]", "null"}},
      {"scheduler", "flow_shift", {"0", "-3", "\"3\"", "[3]", "1e30"}},
  };
  for (const auto* key : {"num_attention_heads", "attention_head_dim", "num_layers", "ffn_dim", "in_channels",
                          "out_channels", "text_dim", "freq_dim"})
    cases.push_back({"transformer", key, counts});
  for (const auto* key : {"base_dim", "z_dim", "num_res_blocks"}) cases.push_back({"vae", key, counts});
  for (const auto& [part, key, values] : cases)
    for (const auto* value : values) {
      CAPTURE(key);
      CAPTURE(value);
      const auto folder = diffusers();
      const auto file =
          folder.path / part / (std::string(part) == "scheduler" ? "scheduler_config.json" : "config.json");
      std::ifstream stream(file);
      auto config = nlohmann::json::parse(stream);
      const bool is_legal = nlohmann::json::accept(value);  // 1e400 is no number for the library
      config[key] = is_legal ? nlohmann::json::parse(value) : nlohmann::json("SPLICE");
      auto text = config.dump();
      if (!is_legal) text.replace(text.find("\"SPLICE\""), 8, value);
      write(file, text);
      const auto said = folder.refusal();
      CHECK(says(said, file.string()));
      if (is_legal) CHECK(says(said, fmt::format("'{}'", key)));
    }
}

TEST_CASE("checkpoint: what is missing or unfit is said in one sentence, with the file") {
  CHECK(says(message_of([] { wan::Checkpoint{"/nowhere/at/all"}; }), "/nowhere/at/all is not a folder"));
  wan_test::Folder empty;
  CHECK(says(message_of([&] { wan::Checkpoint{empty.path}; }), "model_index.json", "config.json"));

  for (const auto* file : {"transformer/config.json", "vae/diffusion_pytorch_model.safetensors",
                           "text_encoder/model.safetensors"}) {
    const auto folder = diffusers();
    fs::remove(folder.path / file);
    CHECK(says(folder.refusal(), file, "missing", "download"));
    write(folder.path / file, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    CHECK(says(folder.refusal(), file, "Git LFS"));
  }
  for (const auto* file : {"Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth",
                           "diffusion_pytorch_model.safetensors", "google/umt5-xxl/spiece.model"}) {
    const auto folder = official();
    fs::remove(folder.path / file);
    CHECK(says(folder.refusal(), file, "missing", "download"));
  }

  const auto lost = diffusers();
  fs::remove(lost.path / "tokenizer" / "tokenizer.json");
  CHECK(wan::Checkpoint(lost.path).tokenizer().filename() == "spiece.model");
  fs::remove(lost.path / "tokenizer" / "spiece.model");
  CHECK(says(lost.refusal(), "tokenizer/spiece.model is missing", "google/umt5-xxl"));

  const auto image = diffusers();
  replace(image.path / "model_index.json", "WanPipeline", "WanImageToVideoPipeline");
  CHECK(says(image.refusal(), "model_index.json", "WanImageToVideoPipeline"));
  const auto image_too = official();
  replace(image_too.path / "config.json", "t2v", "i2v");
  CHECK(says(image_too.refusal(), "config.json", "'model_type' is \"i2v\""));
  const auto lacking = diffusers();
  replace(lacking.path / "transformer" / "config.json", "num_layers", "layers");
  CHECK(says(lacking.refusal(), "transformer/config.json", "'num_layers' is missing"));
  const auto odd = diffusers();
  replace(odd.path / "vae" / "config.json", "\"base_dim\": 6", "\"base_dim\": \"six\"");
  CHECK(says(odd.refusal(), "vae/config.json", "'base_dim'", "six"));
}

TEST_CASE("load: a tensor that fits is used where it lies, any other is converted") {
  const auto stored = at::arange(6, at::kFloat).reshape({2, 3});
  const wan::Weights weights = {{"weight", {stored, "file"}}};
  Small small;
  wan::load(small, weights, {});
  CHECK(small.parameter.data_ptr() == stored.data_ptr());
  wan::load(small, weights, {.dtype = at::kBFloat16});
  CHECK((small.parameter.scalar_type() == at::kBFloat16));
  CHECK(at::equal(small.parameter.to(at::kFloat), stored));
  wan::load(small, weights, {.dtype = at::kBFloat16, .keep_float32 = {"eight"}});
  CHECK((small.parameter.scalar_type() == at::kFloat));
}

TEST_CASE("load: modules and weights may each be made in inference mode or outside it") {
  for (const bool module_inference : {false, true}) {
    for (const bool weights_inference : {false, true}) {
      for (const bool loads_in_inference : {false, true}) {
        const auto make = [](bool inference, auto action) {
          const c10::InferenceMode guard(inference);
          return action();
        };
        auto small = make(module_inference, [] { return Small(); });
        const auto stored = make(weights_inference, [] { return at::arange(6, at::kFloat).reshape({2, 3}); });
        for (const auto dtype : {at::kFloat, at::kBFloat16}) {
          make(loads_in_inference, [&] {
            wan::load(small, {{"weight", {stored, "file"}}}, {.dtype = dtype});
            return 0;
          });
          const c10::InferenceMode guard;
          CHECK(small.parameter[1].sum().item<double>() == 12);  // a view: it needs a sound version counter
        }
      }
    }
  }
}

TEST_CASE("load: missing, unexpected and misshaped tensors are refused with file, key and shapes") {
  Small small;
  const auto before = small.parameter.data_ptr();
  const auto refusal = [&](const wan::Weights& weights, const wan::LoadOptions& options = {}) {
    return message_of([&] { wan::load(small, weights, options); });
  };
  const wan::Entry good{at::ones({2, 3}), "some.file"};
  CHECK(says(refusal({{"other", good}}), "some.file", "'weight' is missing", "[2, 3]"));
  CHECK(says(refusal({{"weight", {at::ones({3, 2}), "some.file"}}}), "some.file", "'weight'", "[3, 2]",
             "[2, 3]"));
  CHECK(says(refusal({{"weight", good}, {"other.bias", good}}), "some.file", "'other.bias'", "no place"));
  CHECK(says(refusal({{"weight", good}, {"weight.scale_weight", good}}), "'weight.scale_weight'",
             "scaled fp8"));
  for (const auto dtype : {at::kLong, at::kChar, at::kByte, at::kBool})
    CHECK(says(refusal({{"weight", {at::ones({2, 3}, dtype), "some.file"}}}), "some.file", "'weight'",
               "floating point"));
  CHECK(says(refusal({{"weight", {at::ones({3, 2}), "some.file", "own.name"}}}), "'own.name'"));
  CHECK(says(
      refusal({{"other", good}}, {.name_in_file = [](const std::string& name) { return "its_" + name; }}),
      "'its_weight' is missing"));
  CHECK(small.parameter.data_ptr() == before);
  CHECK(refusal({{"weight", good}, {"other.bias", good}}, {.ignore_prefixes = {"other."}}).empty());
}

}  // namespace checkpoint_test
