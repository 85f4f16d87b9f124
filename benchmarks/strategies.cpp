// What the strategies promise, measured in one run on thread ranks of this machine, as a table in Markdown:
//
//   strategies > benchmarks/results/strategies.md
#include <fmt/format.h>
#include <torch/nn.h>
#include <torch/optim.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/core/pipeline_schedule.hpp>
#include <wanpar/module/deferred.hpp>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>
#include <wanpar/transport/local.hpp>
#include <wanpar/transport/recording.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <mutex>

#include "models/attention_model.hpp"
#include "wan/model/transformer.hpp"

namespace {

using wanpar::Communicator;
using wanpar::Mesh;
using wanpar::Model;
using Wrap = std::function<Model(AttentionModel, const Communicator&)>;

constexpr double kGiB = 1 << 30;

/// The same weights for whoever asks, on whatever thread. Its layers for text go unused.
AttentionModel make_model(at::ScalarType dtype, int64_t layers = 4) {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  torch::manual_seed(1);
  AttentionModel model(AttentionModelOptions{.layers = layers});
  model->to(dtype);
  return model;
}

at::Tensor random(std::vector<int64_t> shape, at::ScalarType dtype, int seed = 7) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed), dtype);
}

/// The greatest of what the ranks of some worlds found.
double greatest(const std::vector<int>& worlds, const std::function<double(Communicator)>& measure) {
  double result = 0;
  std::mutex mutex;
  for (int ranks : worlds)
    wanpar::local::run(ranks, [&](Communicator world) {
      auto found = measure(world);
      std::lock_guard lock(mutex);
      result = std::max(result, found);
    });
  return result;
}

double apart(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

std::vector<std::pair<std::string, Wrap>> strategies() {
  const std::vector<wanpar::Cut> tokens{{.arg = 0, .dim = 1}};
  auto sequence = [=](const Communicator& world) {
    Mesh mesh(world, {{"ring", world.size() / 2}, {"ulysses", 2}});
    return wanpar::sequence_parallel({.ulysses = mesh["ulysses"], .ring = mesh["ring"], .split = tokens});
  };
  return {
      {"Ulysses",
       [=](auto model, auto& world) {
         return Model(model) | wanpar::sequence_parallel({.ulysses = world, .split = tokens});
       }},
      {"ring",
       [=](auto model, auto& world) {
         return Model(model) | wanpar::sequence_parallel({.ring = world, .split = tokens});
       }},
      {"ring x Ulysses 2", [=](auto model, auto& world) { return Model(model) | sequence(world); }},
      {"FULL_SHARD",
       [](auto model, auto& world) {
         return Model(Model(model) | wanpar::sharded_params({.group = world}));
       }},
      {"DataParallel",
       [](auto model, auto& world) {
         return Model(Model(model) | wanpar::data_parallel({.group = world, .find_unused_parameters = true}));
       }},
      {"ring x Ulysses 2 over FULL_SHARD",
       [=](auto model, auto& world) {
         return Model(Model(model) | wanpar::sharded_params({.group = world})) | sequence(world);
       }},
  };
}

void exactness() {
  fmt::print(
      "\n## Against one rank\n\n| strategy | ranks | float32, greatest difference | gradients in float64, "
      "relative |\n|---|---|---|---|\n");
  for (auto& [name, wrap] : strategies()) {
    const std::vector<int> worlds{2, 4, 8};
    auto forward = greatest(worlds, [&, &wrap = wrap](Communicator world) {
      at::NoGradGuard no_grad;
      auto x = random({3, 37, 48}, at::kFloat);
      auto expected = make_model(at::kFloat)(x);
      return apart(wrap(make_model(at::kFloat), world)(x), expected);
    });
    auto gradient = greatest(worlds, [&, &wrap = wrap](Communicator world) {
      auto of_input = [](Model model) {
        auto x = random({3, 37, 48}, at::kDouble).requires_grad_();
        auto y = model(x);
        (y * random(y.sizes().vec(), at::kDouble, 9)).sum().backward();
        return x.grad();
      };
      auto expected = of_input(make_model(at::kDouble));
      return apart(of_input(wrap(make_model(at::kDouble), world)), expected) /
             expected.abs().max().item<double>();
    });
    fmt::print("| {} | 2, 4, 8 | {:.1e} | {:.1e} |\n", name, forward, gradient);
  }
}

int64_t counted(int ranks, const std::function<void(const Communicator&, wanpar::Recording&)>& run) {
  wanpar::Recording recording;
  wanpar::local::run(ranks, [&](Communicator world) { run(world, recording); });
  return recording.total().bytes;
}

void payload() {
  fmt::print(
      "\n## Payload leaving the ranks, counted over what the formula says\n\n| ranks | Ulysses | ring | "
      "FULL_SHARD |\n|---|---|---|---|\n");
  const int64_t e = 4, d = 8, heads = 6, tokens = 37;
  for (int ranks : {2, 3, 4, 8, 16}) {
    auto attend = [](const at::Tensor& x) { return at::scaled_dot_product_attention(x, x, x); };
    auto attention = [&](bool ring) {
      return counted(ranks, [&](const Communicator& world, wanpar::Recording& recording) {
        at::NoGradGuard no_grad;
        wanpar::SequenceParallelOptions options{.split = {{.arg = 0, .dim = 2}}};
        (ring ? options.ring : options.ulysses) = recording(world);
        auto wrapped = attend | wanpar::sequence_parallel(options);
        wrapped(random({1, heads, tokens, d}, at::kFloat));
      });
    };
    int64_t kept = 0, gathered = 0;
    auto lengths = wanpar::even_sizes(tokens, ranks), share = wanpar::even_sizes(heads, ranks);
    for (int r = 0; r < ranks; ++r) kept += lengths[r] * share[r];
    for (auto length : lengths) gathered += e * d * heads * length * (ranks - 1);  // the result
    auto ulysses = 4 * e * d * (tokens * heads - kept), ring = 2 * e * d * heads * tokens * (ranks - 1);

    int64_t bytes = 0;  // of each parameter, rounded up to 64
    for (auto& [name, tensor] : [] {
           auto model = make_model(at::kFloat);
           return wanpar::named_parameters(model);
         }())
      bytes += (static_cast<int64_t>(tensor.nbytes()) + 63) / 64 * 64;
    auto gathers = counted(ranks, [&](const Communicator& world, wanpar::Recording& recording) {
      at::NoGradGuard no_grad;
      auto wrapped = make_model(at::kFloat) | wanpar::sharded_params({.group = recording(world)});
      world.barrier();
      if (world.rank() == 0) recording.clear();
      world.barrier();
      wrapped(random({1, 5, 48}, at::kFloat));
    });
    fmt::print("| {} | {:.3f} | {:.3f} | {:.3f} |\n", ranks,
               static_cast<double>(attention(false)) / static_cast<double>(ulysses + gathered),
               static_cast<double>(attention(true)) / static_cast<double>(ring + gathered),
               static_cast<double>(gathers) / static_cast<double>(bytes * (ranks - 1)));
  }
}

void peak() {
  fmt::print(
      "\n## FULL_SHARD: peak parameter bytes of a rank in forward and backward\n\n"
      "Eight blocks, prefetch 1; the bound is total / ranks + 2 x the largest unit.\n\n"
      "| ranks | peak | bound | ratio |\n|---|---|---|---|\n");
  for (int ranks : {2, 4, 8}) {
    double bound = 0;
    auto most = greatest({ranks}, [&](Communicator world) {
      auto model = make_model(at::kFloat, 8);
      int64_t total = 0;
      for (auto& parameter : model->parameters()) total += static_cast<int64_t>(parameter.nbytes());
      auto wrapped = model | wanpar::sharded_params({.group = world});
      wrapped(random({2, 9, 48}, at::kFloat)).sum().backward();
      if (world.rank() == 0)
        bound = static_cast<double>(total) / ranks + 2.0 * static_cast<double>(total) / 8;
      auto memory = wrapped.memory();
      return static_cast<double>(memory.shards + memory.peak);
    });
    fmt::print("| {} | {:.0f} | {:.0f} | {:.2f} |\n", ranks, most, bound, most / bound);
  }
}

void memory_table() {
  fmt::print(
      "\n## Weights of the transformer a rank holds, from shapes\n\n"
      "bfloat16, norms, modulation and time embedding in float32; FULL_SHARD with prefetch 1: total / ranks "
      "+ 2 blocks.\n"
      "The promise beside them is the GPU memory that the project's first manual asks for; it holds "
      "activations,\n"
      "the VAE and the text encoder too, so a lower number here is no contradiction, a higher one would "
      "be.\n\n"
      "| model | ranks | weights, GiB | promised, GB |\n|---|---|---|---|\n");
  struct Row {
    const char* name;
    wan::TransformerConfig config;
    std::vector<int> promised;
  };
  for (auto& row :
       {Row{"1.3B", {}, {8, 4, 2, 1}},
        Row{"14B", {.dim = 5120, .heads = 40, .layers = 40, .ffn_dim = 13824}, {48, 24, 12, 6}}}) {
    auto model = wanpar::deferred([&] { return wan::Transformer(row.config); });
    double total = 0, block = 0;
    for (auto& item : model->named_parameters()) {
      auto& keep = wan::kFloat32Parameters;
      bool wide = std::any_of(keep.begin(), keep.end(),
                              [&](auto& part) { return item.key().find(part) != std::string::npos; });
      auto bytes = static_cast<double>(item.value().numel()) * (wide ? 4 : 2);
      total += bytes;
      if (item.key().starts_with("blocks.0.")) block += bytes;
    }
    for (size_t i = 0; i < 4; ++i) {
      int ranks = 1 << i;
      fmt::print("| {} | {} | {:.2f} | {} |\n", row.name, ranks,
                 (ranks == 1 ? total : total / ranks + 2 * block) / kGiB, row.promised[i]);
    }
  }
}

void bubble() {
  const int64_t stages = 4, micro_batches = 8;
  std::vector<std::vector<wanpar::PipelineEvent>> events(stages);
  for (int64_t s = 0; s < stages; ++s)
    for (auto& step : wanpar::one_forward_one_backward(s, stages, micro_batches))
      if (step.kind == wanpar::PipelineStep::Kind::forward ||
          step.kind == wanpar::PipelineStep::Kind::backward)
        events[s].push_back({s, step.kind == wanpar::PipelineStep::Kind::backward, step.micro_batch, 0, 0});
  auto found = wanpar::bubble(wanpar::with_unit_costs(events));
  auto formula = static_cast<double>(stages - 1) / static_cast<double>(micro_batches + stages - 1);
  fmt::print(
      "\n## Pipeline of 4 stages, 8 micro-batches, 1F1B with unit costs\n\nBubble {:.4f}, (S - 1) / (M + S - "
      "1) = {:.4f}.\n",
      found, formula);
}

std::vector<double> losses(Model model, std::vector<at::Tensor> parameters, const at::Tensor& x,
                           const at::Tensor& y, const Communicator& world) {
  torch::optim::AdamW optimizer(std::move(parameters), torch::optim::AdamWOptions(1e-3));
  std::vector<double> result;
  for (int step = 0; step < 20; ++step) {
    optimizer.zero_grad();
    auto loss = (model(x) - y).square().mean();
    loss.backward();
    optimizer.step();
    result.push_back(world.all_reduce(loss.detach(), wanpar::ReduceOp::mean).get().item<double>());
  }
  return result;
}

void training() {
  fmt::print(
      "\n## 20 AdamW steps over 4 ranks, each with a quarter of the batch: losses against one rank\n\n"
      "| strategy | float32 | float64 |\n|---|---|---|\n");
  for (bool sharded : {true, false}) {
    std::string cells;
    for (auto dtype : {at::kFloat, at::kDouble}) {
      auto most = greatest({4}, [&](Communicator world) {
        auto x = random({8, 7, 48}, dtype), y = random({8, 7, 48}, dtype, 8);
        auto whole = make_model(dtype);
        auto expected = losses(whole, whole->parameters(), x, y, {});
        auto mine = [&](const at::Tensor& t) { return t.narrow(0, 2 * world.rank(), 2); };
        auto model = make_model(dtype);
        std::vector<double> actual;
        if (sharded) {
          auto wrapped = model | wanpar::sharded_params({.group = world});
          actual = losses([&](const at::Tensor& t) { return wrapped(t); }, wrapped.parameters(), mine(x),
                          mine(y), world);
        } else {
          auto wrapped =
              model | wanpar::data_parallel(
                          {.group = world, .mode = wanpar::BatchMode::local, .find_unused_parameters = true});
          actual = losses(wrapped, model->parameters(), mine(x), mine(y), world);
        }
        double difference = 0;
        for (size_t i = 0; i < actual.size(); ++i)
          difference = std::max(difference, std::abs(actual[i] - expected[i]));
        return difference;
      });
      cells += fmt::format(" {:.1e} |", most);
    }
    fmt::print("| {} |{}\n", sharded ? "FULL_SHARD" : "DataParallel", cells);
  }
}

void alone() {
  fmt::print(
      "\n## Wrapped over a group of one, time over bare (median of 31, in turn)\n\n| strategy | time | same "
      "bits |\n|---|---|---|\n");
  at::NoGradGuard no_grad;
  auto x = random({2, 2048, 48}, at::kFloat);
  wanpar::local::run(1, [&](Communicator world) {
    for (auto& [name, wrap] : strategies()) {
      if (name.find(" 2") != std::string::npos) continue;
      auto bare = make_model(at::kFloat, 8);
      auto wrapped = wrap(make_model(at::kFloat, 8), world);
      bool same = wrapped(x).equal(bare(x));
      auto seconds = [&](auto& model) {
        auto begin = std::chrono::steady_clock::now();
        model(x);
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      };
      std::vector<double> ratios;
      for (int i = 0; i < 31; ++i) {
        auto one = seconds(bare);
        ratios.push_back(seconds(wrapped) / one);
      }
      std::nth_element(ratios.begin(), ratios.begin() + 15, ratios.end());
      fmt::print("| {} | {:+.1f} % | {} |\n", name, 100 * (ratios[15] - 1), same ? "yes" : "NO");
    }
  });
}

}  // namespace

int main() try {
  fmt::print(
      "# What the strategies promise, measured\n\nThread ranks on one CPU. Command: `build/bin/strategies > "
      "benchmarks/results/strategies.md`\n");
  exactness();
  payload();
  peak();
  memory_table();
  bubble();
  training();
  alone();
} catch (const std::exception& failure) {
  fmt::print(stderr, "{}\n", failure.what());
  return 1;
}
