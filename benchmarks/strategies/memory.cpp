#include <fmt/format.h>
#include <wanpar/module/deferred.hpp>

#include <algorithm>

#include "tables.hpp"
#include "wan/model/transformer.hpp"
#include "wan/text/umt5.hpp"
#include "wan/vae/decoder.hpp"

namespace {

constexpr double kGiB = 1 << 30;
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
