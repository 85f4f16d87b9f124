#include <fmt/format.h>
#include <wanpar/module/deferred.hpp>
#include <wanpar/module/interceptor.hpp>
#include <wanpar/strategy/sharded_params.hpp>
#include <wanpar/transport/local.hpp>

#include <algorithm>
#include <atomic>

#include "tables.hpp"
#include "wan/model/transformer.hpp"
#include "wan/text/umt5.hpp"
#include "wan/vae/decoder.hpp"

using wanpar::Communicator;

namespace {

constexpr double kGiB = 1 << 30;
constexpr int64_t kLayers = 8;

/// Bytes of the parameters' storages as LibTorch sees them, and the most that they came to.
struct Scales : wanpar::Handler {
  explicit Scales(wanpar::NamedTensors all) : parameters(std::move(all)) {}
  void weigh() {
    int64_t sum = 0;
    for (auto& [name, tensor] : parameters) sum += static_cast<int64_t>(tensor.storage().nbytes());
    most = std::max(most, sum);
  }
  void before(const wanpar::Operator&) override { weigh(); }
  wanpar::NamedTensors parameters;
  int64_t most = 0;
};

/// Bytes of a module's parameters, and of those whose names begin so.
template <class Module>
std::pair<double, double> bytes_of(const Module& module, const std::string& part,
                                   const std::function<int64_t(const std::string& name)>& width) {
  double total = 0, some = 0;
  for (auto& item : module->named_parameters()) {
    auto bytes = static_cast<double>(item.value().numel() * width(item.key()));
    total += bytes;
    if (item.key().starts_with(part)) some += bytes;
  }
  return {total, some};
}

}  // namespace

void print_peak() {
  fmt::print(
      "\n## FULL_SHARD: the most parameter bytes of a rank\n\n"
      "Eight blocks, weighed by their storages before every operator and at every piece that is loaded.\n"
      "The bound is total / ranks + (prefetch + 1) x the largest unit.\n\n"
      "| ranks | prefetch | load | forward and backward | bound | of the bound |\n"
      "|---|---|---|---|---|---|\n");
  for (int ranks : {2, 4, 8})
    for (int64_t prefetch : {0, 1, 2}) {
      std::atomic<int64_t> total = 0, load = 0;
      auto most = greatest({ranks}, [&](Communicator world) {
        auto values = make_model(at::kFloat, kLayers)->named_parameters();
        auto model = wanpar::deferred([&] { return make_model(at::kFloat, kLayers); });
        Scales scales(wanpar::named_parameters(model));
        int64_t all = 0;
        for (auto& value : values) all += static_cast<int64_t>(value.value().nbytes());
        auto wrapped = model | wanpar::sharded_params({.group = world, .prefetch = prefetch});
        auto shards = wrapped.memory().shards;
        wrapped.load([&](const std::string& name, int64_t begin, int64_t end) {
          scales.weigh();
          return values[name].detach().flatten().slice(0, begin, end);
        });
        if (world.rank() == 0) total = all, load = shards + scales.most;
        {
          wanpar::Scope watch(scales);
          wrapped(random({2, 9, 48}, at::kFloat)).sum().backward();
        }
        return static_cast<double>(shards + scales.most);
      });
      auto bound = static_cast<double>(total) / ranks +
                   static_cast<double>((prefetch + 1) * total) / static_cast<double>(kLayers);
      fmt::print("| {} | {} | {} | {:.0f} | {:.0f} | {:.3f} |\n", ranks, prefetch, load.load(), most, bound,
                 most / bound);
    }
}

void print_bytes_read() {
  std::atomic<int64_t> read = 0, total = 0;
  wanpar::local::run(4, [&](Communicator world) {
    auto values = make_model(at::kFloat, kLayers)->named_parameters();
    auto wrapped = wanpar::deferred([&] { return make_model(at::kFloat, kLayers); }) |
                   wanpar::sharded_params({.group = world});
    wrapped.load([&](const std::string& name, int64_t begin, int64_t end) {
      auto piece = values[name].detach().flatten().slice(0, begin, end);
      read += static_cast<int64_t>(piece.nbytes());
      return piece;
    });
    if (world.rank() == 0)
      for (auto& value : values) total += static_cast<int64_t>(value.value().nbytes());
  });
  fmt::print(
      "\n## Bytes that 4 ranks read while loading their shards\n\n"
      "{} of {}: {:.3f} x the weights in all. The same of a checkpoint's files is a test "
      "(`tests/wan_ranks/`).\n",
      read.load(), total.load(), static_cast<double>(read) / static_cast<double>(total));
}

void print_memory() {
  struct Row {
    const char* name;
    wan::TransformerConfig config;
    std::vector<int> promised;
  };
  auto half = [](const std::string&) { return int64_t{2}; };
  auto as_stored = [](const std::string& name) {
    auto& keep = wan::kFloat32Parameters;
    return std::any_of(keep.begin(), keep.end(), [&](auto& p) { return name.find(p) != std::string::npos; })
               ? int64_t{4}
               : int64_t{2};
  };
  auto encoder = wanpar::deferred([] { return wan::Umt5(wan::TextEncoderConfig{}); });
  const auto text = bytes_of(encoder, "", half).first;
  fmt::print(
      "\n## Weights that a rank holds, from shapes, beside the GPU memory that the first manual promised\n\n"
      "Transformer: bfloat16, norms, modulation and time embedding in float32; FULL_SHARD with prefetch 1 is "
      "total / ranks + 2 blocks.\nText encoder (`--t5_fsdp`), bfloat16: its part, without what comes and "
      "goes.\n\n"
      "| model | ranks | transformer, GiB | text encoder, GiB | promised, GiB | left for all else, GiB |\n"
      "|---|---|---|---|---|---|\n");
  for (auto& row :
       {Row{"1.3B", {}, {8, 4, 2, 1}},
        Row{"14B", {.dim = 5120, .heads = 40, .layers = 40, .ffn_dim = 13824}, {48, 24, 12, 6}}}) {
    auto model = wanpar::deferred([&] { return wan::Transformer(row.config); });
    auto [total, block] = bytes_of(model, "blocks.0.", as_stored);
    for (size_t i = 0; i < row.promised.size(); ++i) {
      int ranks = 1 << i;
      auto weights = (ranks == 1 ? total : total / ranks + 2 * block) / kGiB, words = text / ranks / kGiB;
      auto promised = row.promised[i] * 1e9 / kGiB;
      fmt::print("| {} | {} | {:.2f} | {:.2f} | {:.2f} | {:+.2f} |\n", row.name, ranks, weights, words,
                 promised, promised - weights - words);
    }
  }
  auto vae = wanpar::deferred([] { return wan::Vae(wan::VaeConfig{}); });
  auto single = [](const std::string&) { return int64_t{4}; };
  fmt::print(
      "\nThe promise is one number divided by the ranks. Three things do not divide so: the two blocks in "
      "use (the same for any number of ranks),\nthe VAE ({:.2f} GiB of weights in float32, on the rank that "
      "decodes) and activations, which FULL_SHARD leaves whole and only split tokens divide.\nWhere the last "
      "column is negative the promise cannot be kept with both networks resident: the text encoder must be "
      "gone before the\ntransformer comes (1.3B), or stay on the CPU.\n",
      bytes_of(vae, "", single).first / kGiB);
}
