#include <ATen/ops/abs.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <wanpar/module/deferred.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include <atomic>

#include "wan/generate/text.hpp"
#include "wan/io/load.hpp"
#include "wan/model/transformer.hpp"
#include "wan/text/tokenizer.hpp"
#include "wan/text/umt5.hpp"
#include "worlds.hpp"

namespace load_ranks_test {
namespace {

int64_t bytes_of(const wan::Weights& weights) {
  int64_t sum = 0;
  for (auto& [name, entry] : weights) sum += static_cast<int64_t>(entry.tensor.nbytes());
  return sum;
}

/// Loads a module whole, and by parts, and compares: values and dtypes, bytes read, bytes held.
template <class Module, class Config>
void require_read_once(const Config& config, const wan::Weights& weights, const wan::LoadOptions& options) {
  Module whole(config);
  load(*whole, weights, options);
  std::map<std::string, at::Tensor> expected;
  for (auto& item : whole->named_parameters()) expected[item.key()] = item.value();

  on_worlds(
      [&](wanpar::Communicator world) {
        auto module = wanpar::deferred([&] {
          Module empty(config);
          wan::prepare(*empty, options);
          return empty;
        });
        const auto ranges = wan::ranges_for(*module, weights, options);
        auto sharded = module | wanpar::sharded_params({.group = world});
        int64_t read = 0;
        sharded.load([&](const std::string& name, int64_t begin, int64_t end) {
          const auto part = ranges(name, begin, end);
          require(part.is_alias_of(weights.at(name).tensor), name + " is read where it lies");
          read += static_cast<int64_t>(part.nbytes());
          return part;
        });
        const auto all = world.all_reduce(at::tensor({read}, at::kLong)).get().item<int64_t>();
        require(all == bytes_of(weights), fmt::format("{} bytes are read of {}", all, bytes_of(weights)));
        require(world.size() == 1 || read < bytes_of(weights), "no rank reads all of them");
        sharded.each_parameter([&](const std::string& name, const at::Tensor& value) {
          require_equal(value, expected.at(name), name);
        });
      },
      {1, 2, 3, 4});
}

wan::Job job_with(bool t5_fsdp, int ranks) {
  wan::Options options;
  options.ckpt_dir = TEST_DATA "/diffusers";
  options.prompt = "a fox";
  options.negative_prompt = "rain, and a sentence that is longer than that";
  options.device = "cpu";
  options.t5_fsdp = t5_fsdp;
  auto job = wan::plan(options, ranks);
  const wan::Tokenizer tokenizer(job.checkpoint.tokenizer());
  for (int i = 1; i < 10; ++i)
    job.texts.insert(job.texts.end() - 1, tokenizer.encode(fmt::format("prompt {} of several", i)));
  return job;
}

}  // namespace

TEST_CASE("ranks that share a module read each byte of its files once, and hold what load() gives") {
  const wan::Checkpoint checkpoint(TEST_DATA "/diffusers");
  for (auto dtype : {at::kFloat, at::kBFloat16})
    require_read_once<wan::Transformer>(checkpoint.transformer_config(), checkpoint.transformer(),
                                        {.dtype = dtype, .keep_float32 = wan::kFloat32Parameters});
  require_read_once<wan::Umt5>(checkpoint.text_encoder_config(), checkpoint.text_encoder(), {});
}

TEST_CASE("a sharded text encoder gives every rank the embeddings of a whole one") {
  const at::NoGradGuard no_grad;
  const auto expected = wan::embed_texts({}, job_with(false, 1), at::kCPU, nullptr);
  on_worlds(
      [&](wanpar::Communicator world) {
        const at::NoGradGuard no_grad;
        for (bool t5_fsdp : {false, true})
          require_close(wan::embed_texts(world, job_with(t5_fsdp, world.size()), at::kCPU, nullptr), expected,
                        1e-5, t5_fsdp ? "sharded" : "whole");
      },
      {1, 2, 3, 4});
}

}  // namespace load_ranks_test
