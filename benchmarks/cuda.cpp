// What wanpar costs on CUDA, as tables: one forward of a transformer of Wan2.1's width, and single calls.
// Alone, ranks are two threads that share the device; started as several processes, they are those, over
// NCCL.
//
//   benchmark_cuda [TOKENS]
#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <fmt/format.h>
#include <torch/cuda.h>
#include <torch/nn.h>
#include <torch/utils.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <wanpar/core/error.hpp>
#include <wanpar/launch/connect.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>
#include <wanpar/transport/local.hpp>

#include <algorithm>
#include <chrono>
#include <mutex>

#include "wan/model/transformer.hpp"

namespace {

using wanpar::Communicator;

const at::Device kCuda(at::kCUDA, 0);

using World = std::function<void(const std::function<void(Communicator)>&)>;

/// Of `run` in µs, the device's work included: the median of some, after two that are not counted.
double microseconds(const Communicator& world, const std::function<void()>& run, int times, int calls = 1) {
  std::vector<double> all;
  for (int i = -2; i < times; ++i) {
    world.barrier();
    at::accelerator::synchronizeDevice(0);
    auto begin = std::chrono::steady_clock::now();
    for (int call = 0; call < calls; ++call) run();
    at::accelerator::synchronizeDevice(0);
    auto time = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin);
    if (i >= 0) all.push_back(time.count() / calls);
  }
  std::nth_element(all.begin(), all.begin() + times / 2, all.end());
  return all[times / 2];
}

struct Inputs {
  at::Tensor latents, timestep, text;
};

Inputs inputs(int64_t tokens) {
  torch::manual_seed(2);
  auto bf16 = at::TensorOptions(at::kBFloat16).device(kCuda);
  return {at::randn({1, 16, tokens / 1560, 60, 104}, bf16), at::full({1}, 500.0, bf16.dtype(at::kFloat)),
          at::randn({1, 512, 4096}, bf16)};
}

/// Four layers of Wan2.1 1.3B with random weights, none of which drowns another.
wan::Transformer transformer() {
  static std::mutex generator;  // LibTorch's random numbers come from one for all threads
  std::lock_guard lock(generator);
  at::NoGradGuard no_grad;
  wan::Transformer model(wan::TransformerConfig{.layers = 4});
  model->to(kCuda, at::kBFloat16);
  torch::manual_seed(1);
  for (auto& item : model->named_parameters()) {
    auto& keep = wan::kFloat32Parameters;
    bool wide = std::any_of(keep.begin(), keep.end(),
                            [&](auto& part) { return item.key().find(part) != std::string::npos; });
    auto values = at::randn(item.value().sizes(), at::TensorOptions(at::kFloat).device(kCuda));
    values = values / std::sqrt(static_cast<double>(values.size(-1)));
    item.value().set_data(values.to(wide ? at::kFloat : at::kBFloat16));
  }
  return model;
}

template <class Module>
at::Tensor forward(Module& module, const Inputs& in) {
  c10::InferenceMode inference;
  return module(in.latents, in.timestep, in.text);
}

struct Row {
  std::string name;
  double time = 0, difference = 0;
};

template <class Closure>
Row measured(const std::string& name, const Communicator& world, const Inputs& in, const at::Tensor& expected,
             Closure closure) {
  auto model = transformer();
  auto wrapped = model | closure;
  auto error = (forward(wrapped, in) - expected).norm() / expected.norm();
  return {name,
          microseconds(
              world, [&] { forward(wrapped, in); }, 5),
          error.template item<double>()};
}

void print_transformer(const World& ranks, const std::string& where, int64_t tokens) {
  auto in = inputs(tokens);
  auto model = transformer();
  auto expected = forward(model, in);
  std::vector<Row> rows{{"bare, one rank",
                         microseconds(
                             {}, [&] { forward(model, in); }, 5),
                         0}};
  rows.push_back(measured("SequenceParallel over one rank", {}, in, expected, wanpar::sequence_parallel({})));
  int size = 0;
  ranks([&](Communicator world) {
    std::vector<Row> mine;
    auto add = [&](const std::string& name, auto closure) {
      try {
        mine.push_back(measured(name, world, in, expected, closure));
      } catch (const std::exception& error) {
        fmt::print("\n{} failed: {}\n", name, std::string(error.what()).substr(0, 400));
        throw;
      }
    };
    add("SequenceParallel, Ulysses", wanpar::sequence_parallel({.ulysses = world}));
    add("SequenceParallel, ring", wanpar::sequence_parallel({.ring = world}));
    add("ShardedParams", wanpar::sharded_params({.group = world}));
    add("BlockPipeline", wanpar::block_pipeline({.stages = world, .micro_batches = 1}));
    if (world.rank() > 0) return;
    size = world.size();
    rows.insert(rows.end(), mine.begin(), mine.end());
  });
  if (size == 0) return;
  fmt::print(
      "\n## One forward: 4 layers of Wan2.1 1.3B, bfloat16, {} tokens; {} ranks, {}\n\n| wrapped | ms | over "
      "bare | relative difference |\n|---|---|---|---|\n",
      tokens, size, where);
  for (auto& row : rows)
    fmt::print("| {} | {:.2f} | {:.2f} | {:.1e} |\n", row.name, row.time / 1000, row.time / rows[0].time,
               row.difference);
  std::fflush(stdout);
}

/// LibTorch's own all-reduce, which the stream waits for and the host does not.
using Raw = std::function<void(at::Tensor)>;

Raw raw_nccl(const Communicator& world) {
  c10d::TCPStoreOptions options;
  options.port = 29763;
  options.isServer = world.rank() == 0;
  options.waitWorkers = false;
  auto store = c10::make_intrusive<c10d::TCPStore>("127.0.0.1", options);
  auto group = c10::make_intrusive<c10d::ProcessGroupNCCL>(store, world.rank(), world.size());
  return [group](at::Tensor x) {
    std::vector<at::Tensor> tensors{x};
    group->allreduce(tensors)->synchronize();
  };
}

void print_calls(const World& ranks, const std::string& where, bool with_raw) {
  std::vector<std::string> lines;
  ranks([&](Communicator world) {
    auto raw = with_raw ? raw_nccl(world) : Raw();
    for (int64_t bytes : {1 << 10, 1 << 20, 1 << 25}) {
      auto x = at::ones({bytes / 4}, kCuda);
      auto time = [&](const std::function<void()>& run) {
        auto result = microseconds(world, run, 5, 20);
        return fmt::format(" {:.0f} |", result);
      };
      auto line = fmt::format("| {} |", bytes) + time([&] { (void)world.all_reduce(x).get(); }) +
                  time([&] { (void)world.all_gather(x).get(); }) + time([&] {
                    (void)world.all_to_all(x.view({world.size(), -1}), 0, 1).get();
                  });
      if (raw) line += time([&] { raw(x.clone()); });
      if (world.rank() == 0) lines.push_back(line);
    }
  });
  if (lines.empty()) return;
  fmt::print(
      "\n## One call in µs, 20 in a row, {}; bytes are what a rank gives\n\n| bytes | all_reduce | "
      "all_gather | "
      "all_to_all |{}\n|---|---|---|---|{}\n",
      where, with_raw ? " all_reduce of LibTorch's own, not waited for by the host |" : "",
      with_raw ? "---|" : "");
  for (auto& line : lines) fmt::print("{}\n", line);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (!torch::cuda::is_available()) {
    fmt::print("there is no CUDA device here\n");
    return 0;
  }
  try {
    int64_t tokens = argc > 1 ? std::stoll(argv[1]) : 32760;
    auto world = wanpar::connect();
    auto threads = [](wanpar::Checks checks) -> World {
      return [=](const auto& program) { wanpar::local::run(2, program, {.checks = checks}); };
    };
    if (world.size() > 1) {
      auto processes = [&](const auto& program) { program(world); };
      print_calls(processes, "NCCL", true);
      print_transformer(processes, "processes over NCCL", tokens);
    } else {
      print_calls(threads(wanpar::Checks::off), "two threads", false);
      print_calls(threads(wanpar::Checks::on), "two threads, checked", false);
      print_transformer(threads(wanpar::Checks::on), "threads", tokens);
    }
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
