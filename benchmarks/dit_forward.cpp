// Our side of dit_forward.py: times one forward of the transformer for each line read, "bare" or "wrapped".
//
//   dit_forward FOLDER float32|bfloat16 THREADS
//
// FOLDER holds weights.safetensors (diffusers' names) and inputs.safetensors (latents, timestep, text);
// output.safetensors (velocity) is written there before the first line is read.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <wanpar/core/error.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/transport/local.hpp>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <wanpar/files/safetensors.hpp>

#include "wan/io/keys.hpp"
#include "wan/io/load.hpp"
#include "wan/model/transformer.hpp"

namespace {

namespace fs = std::filesystem;

wan::Weights read_weights(const fs::path& file) {
  wan::Weights weights;
  for (const auto& [name, tensor] : wanpar::read_safetensors(file))
    weights[wan::official_name(wan::Part::transformer, name)] = {tensor, file};
  return weights;
}

/// The shape that dit_forward.py gives its model: the width of Wan2.1 1.3B.
wan::Transformer make_model(const wan::Weights& weights) {
  int64_t layers = 0;
  while (weights.contains(fmt::format("blocks.{}.modulation", layers))) ++layers;
  return wan::Transformer(wan::TransformerConfig{.layers = layers});
}

double seconds(const std::function<void()>& run) {
  const auto begin = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

void serve(const fs::path& folder, at::ScalarType dtype) {
  c10::InferenceMode inference;
  const auto weights = read_weights(folder / "weights.safetensors");
  auto model = make_model(weights);
  wan::load(*model, weights, {.dtype = dtype, .keep_float32 = wan::kFloat32Parameters});

  auto inputs = wanpar::read_safetensors(folder / "inputs.safetensors");
  const auto forward = [&](auto& module) {
    return module(inputs.at("latents").to(dtype), inputs.at("timestep"), inputs.at("text").to(dtype));
  };
  wanpar::local::run(1, [&](wanpar::Communicator alone) {
    auto wrapped = model | wanpar::sequence_parallel({.ulysses = alone, .min_share = 1});
    const auto velocity = forward(model);
    if (!forward(wrapped).equal(velocity)) throw wanpar::Error("dit_forward: the wrapper changed a bit");
    wanpar::write_safetensors(folder / "output.safetensors", {{"velocity", velocity.to(at::kFloat)}});

    fmt::print("ready\n");
    std::fflush(stdout);
    for (std::string line; std::getline(std::cin, line);) {
      const bool bare = line == "bare";
      fmt::print("{:.6f}\n", seconds([&] { bare ? forward(model) : forward(wrapped); }));
      std::fflush(stdout);
    }
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    fmt::print(stderr, "usage: dit_forward FOLDER float32|bfloat16 THREADS\n");
    return 2;
  }
  try {
    at::set_num_threads(std::stoi(argv[3]));
    serve(argv[1], std::string(argv[2]) == "bfloat16" ? at::kBFloat16 : at::kFloat);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
