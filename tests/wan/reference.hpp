#pragma once
#include <ATen/ops/constant_pad_nd.h>

#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <wanpar/files/safetensors.hpp>

#include "wan/io/checkpoint.hpp"
#include "wan/io/load.hpp"
#include "wan/model/transformer.hpp"
#include "wan/vae/decoder.hpp"
#include "wan/vae/encoder.hpp"

namespace wan_test {

inline const std::filesystem::path kData = TEST_DATA;

/// All inputs and outputs that tests/reference/make_reference.py kept.
inline const std::map<std::string, at::Tensor>& reference() {
  static const auto tensors = wanpar::read_safetensors(kData / "reference.safetensors");
  return tensors;
}

inline at::Tensor reference(const std::string& name) { return reference().at(name); }

/// The embedding of prompt `index`, [1, 512, text_dim], padded with zeros.
inline at::Tensor padded_text(int64_t index) {
  const auto rows = reference(fmt::format("text.embeds.{}", index));
  return at::constant_pad_nd(rows, {0, 0, 0, 512 - rows.size(0)}).unsqueeze(0);
}

inline const wan::Checkpoint& checkpoint() {
  static const wan::Checkpoint opened(kData / "diffusers");
  return opened;
}

inline wan::Transformer tiny_transformer(at::ScalarType dtype = at::kFloat) {
  wan::Transformer transformer(checkpoint().transformer_config());
  wan::load(*transformer, checkpoint().transformer(),
            {.dtype = dtype, .keep_float32 = wan::kFloat32Parameters});
  return transformer;
}

inline wan::Vae tiny_vae(at::ScalarType dtype = at::kFloat) {
  wan::Vae vae(checkpoint().vae_config());
  wan::load(*vae, checkpoint().vae(), {.dtype = dtype, .ignore_prefixes = {"encoder.", "conv1."}});
  return vae;
}

inline wan::VaeEncoder tiny_vae_encoder(at::ScalarType dtype = at::kFloat) {
  wan::VaeEncoder vae(checkpoint().vae_config());
  wan::load(*vae, checkpoint().vae(), {.dtype = dtype, .ignore_prefixes = {"decoder.", "conv2."}});
  return vae;
}

/// The largest difference, relative to the largest expected value; a wrong shape counts as infinitely wrong.
inline double difference(const at::Tensor& actual, const at::Tensor& expected) {
  if (actual.sizes() != expected.sizes()) return std::numeric_limits<double>::infinity();
  return ((actual - expected).abs().max() / expected.abs().max()).item<double>();
}

}  // namespace wan_test
