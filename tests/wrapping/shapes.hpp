#pragma once
#include <torch/nn.h>
#include <wanpar/module/annotations.hpp>

#include <array>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

// Modules whose arguments and results are of every shape that there is. Each takes tokens [batch, tokens, 8]
// and a scale [batch, 1, 8], and gives two tensors like the tokens.
namespace shapes {

using Both = std::vector<at::Tensor>;

struct BlockImpl : torch::nn::Module {
  at::Tensor forward(at::Tensor x) {
    auto heads = qkv(x).unflatten(2, {3, 2, 4}).permute({2, 0, 3, 1, 4});
    return x + at::scaled_dot_product_attention(heads[0], heads[1], heads[2]).transpose(1, 2).flatten(2);
  }
  torch::nn::Linear qkv = register_module("qkv", torch::nn::Linear(8, 24));
};
TORCH_MODULE(Block);

struct BodyImpl : torch::nn::Module {
  BodyImpl() {
    for (int i = 0; i < 4; ++i) blocks.push_back(register_module("blocks" + std::to_string(i), Block()));
  }
  template <class Give>
  auto run(at::Tensor tokens, const at::Tensor& scale, const Give& give) {
    return wanpar::run_blocks(blocks, tokens * scale, [&](at::Tensor y) { return give(y, y.sin()); });
  }
  std::vector<Block> blocks;
};

/// A pair in, a tuple out.
struct Tuples : BodyImpl {
  static constexpr const char* kTokens = "0.0";
  using In = std::pair<at::Tensor, at::Tensor>;
  using Out = std::tuple<at::Tensor, at::Tensor>;
  static In in(at::Tensor tokens, at::Tensor scale) { return {tokens, scale}; }
  static Both both(const Out& out) { return {std::get<0>(out), std::get<1>(out)}; }
  Out forward(In in) {
    return run(in.first, in.second, [](auto a, auto b) { return Out{a, b}; });
  }
};

/// A vector of optionals in, a vector out.
struct Lists : BodyImpl {
  static constexpr const char* kTokens = "0.1";
  using In = std::vector<std::optional<at::Tensor>>;
  using Out = std::vector<at::Tensor>;
  static In in(at::Tensor tokens, at::Tensor scale) { return {std::nullopt, tokens, scale}; }
  static Both both(const Out& out) { return out; }
  Out forward(const In& in) {
    TORCH_CHECK(!in[0].has_value());
    return run(*in[1], *in[2], [](auto a, auto b) { return Out{a, b}; });
  }
};

/// A map of maps in, a dictionary of LibTorch's out.
struct Maps : BodyImpl {
  static constexpr const char* kTokens = "0.video.tokens";
  using In = std::map<std::string, std::map<std::string, at::Tensor>>;
  using Out = c10::Dict<std::string, at::Tensor>;
  static In in(at::Tensor tokens, at::Tensor scale) {
    return {{"video", {{"tokens", tokens}}}, {"all", {{"scale", scale}}}};
  }
  static Both both(const Out& out) { return {out.at("a"), out.at("b")}; }
  Out forward(In in) {
    return run(in["video"]["tokens"], in["all"]["scale"], [](auto a, auto b) {
      Out out;
      out.insert("a", a), out.insert("b", b);
      return out;
    });
  }
};

struct Batch {
  at::Tensor tokens;
  std::optional<at::Tensor> mask;
  std::array<at::Tensor, 1> scale;
  double factor = 1;
};
inline auto wanpar_fields(Batch& batch) {
  return std::tie(batch.tokens, batch.mask, batch.scale, batch.factor);
}
struct Output {
  at::Tensor a;
  c10::List<at::Tensor> rest;
};
inline auto wanpar_fields(Output& output) { return std::tie(output.a, output.rest); }

/// Structs of one's own.
struct Structs : BodyImpl {
  static constexpr const char* kTokens = "0.0";
  using In = Batch;
  using Out = Output;
  static In in(at::Tensor tokens, at::Tensor scale) { return {tokens, std::nullopt, {scale}, 1.0}; }
  static Both both(const Out& out) { return {out.a, out.rest.get(0)}; }
  Out forward(In in) {
    TORCH_CHECK(!in.mask);
    return run(in.tokens, in.scale[0] * in.factor, [](auto a, auto b) {
      return Out{a, c10::List<at::Tensor>({b})};
    });
  }
};

}  // namespace shapes
