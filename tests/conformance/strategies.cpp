#include "strategies.hpp"

#include <ATen/ATen.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/strategy/activation_checkpointing.hpp>
#include <wanpar/strategy/block_distribution.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/patch_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include <regex>

using wanpar::activation_checkpointing;
using wanpar::block_distribution;
using wanpar::block_pipeline;
using wanpar::Communicator;
using wanpar::data_parallel;
using wanpar::Mesh;
using wanpar::Model;
using wanpar::patch_parallel;
using wanpar::sequence_parallel;
using wanpar::sharded_params;
using wanpar::Sharding;

namespace {

/// The smallest number of groups, other than one, that ranks can be dealt to evenly.
int64_t few(int64_t ranks) {
  for (int64_t n = 2; n < ranks; ++n)
    if (ranks % n == 0) return n;
  return ranks;
}

/// As near to a square as the world allows.
Mesh grid(const Communicator& world, const std::string& outer, const std::string& inner) {
  return {world, {{outer, few(world.size())}, {inner, world.size() / few(world.size())}}};
}

Mesh cube(const Communicator& world) {
  auto data = few(world.size()), rest = world.size() / data;
  return {world, {{"data", data}, {"ring", few(rest)}, {"ulysses", rest / few(rest)}}};
}

Wrapped with_gradients(Model model) { return {model, gradients_of(model)}; }

template <class Sharded>
Wrapped averaging(Sharded sharded) {
  return {sharded, gradients_of_shards(sharded), true};
}

/// Stages beside other ranks: as many as there are blocks for, some for each.
Mesh staged(const Communicator& world, const Subject& subject, int64_t for_each = 1) {
  auto stages = world.size();
  while (subject.blocks && (stages * for_each > subject.blocks || world.size() % stages)) --stages;
  return {world, {{"beside", world.size() / stages}, {"stages", stages}}};
}

wanpar::BlockPipelineOptions over(const Mesh& mesh, const Subject& subject) {
  return {.stages = mesh["stages"], .micro_batches = 2, .side = subject.side};
}

/// Beside a stage: each rank uses the parameters of its own blocks only.
wanpar::DataParallelOptions among(const Communicator& group, const Subject& subject) {
  return {.group = group, .batch = subject.batch, .find_unused_parameters = true};
}

/// Blocks of the subjects are numbered: "blocks.3.weight".
bool is_in_block(const std::string& name) {
  static const std::regex numbered("(^|\\.)[a-z]*[0-9]+\\.");
  return std::regex_search(name, numbered);
}

/// Each stage has the gradients of its blocks; every one those of what is outside of blocks.
std::function<Gradients()> of_all_stages(std::function<Gradients()> take, Communicator stages, Model model) {
  return [=] {
    auto mine = take();
    auto parameters = model.named_parameters();
    std::vector<at::Tensor> held, tensors{{}};
    for (auto& [name, tensor] : parameters) {
      auto& gradient = mine.at(name);
      tensors.push_back(gradient.defined() ? gradient : at::zeros_like(tensor));
      held.push_back(tensors.back().ne(0).any().to(at::kDouble));
    }
    tensors[0] = at::stack(held);
    tensors =
        at::unflatten_dense_tensors(stages.all_reduce(at::flatten_dense_tensors(tensors)).get(), tensors);

    Gradients all;
    for (size_t i = 0; i < parameters.size(); ++i) {
      auto& name = parameters[i].name;
      auto holders = tensors[0][i];
      if (!is_in_block(name) && holders.item<double>() != stages.size())
        throw wanpar::Error(name + " has no gradient on some stage");
      all[name] = tensors[i + 1] / holders;
    }
    return all;
  };
}

/// Patches are dealt of whatever holds tokens.
wanpar::PatchParallelOptions patches(const Communicator& group, const Subject& subject) {
  wanpar::PatchParallelOptions options{.group = group};
  for (auto& cut : subject.tokens) options.split.push_back({cut.arg, {}, cut.dim});
  return options;
}

Wrap sharded(Sharding sharding) {
  return [=](Model model, const Subject&, Communicator world) {
    return averaging(model | sharded_params({.group = world, .sharding = sharding}));
  };
}

}  // namespace

const std::vector<Strategy>& strategies() {
  static const std::vector<Strategy> all{
      {"sequence, ulysses",
       [](Model model, const Subject& subject, Communicator world) {
         return with_gradients(
             model | sequence_parallel({.ulysses = world, .split = subject.tokens, .min_share = 1}));
       }},
      {"sequence, ring",
       [](Model model, const Subject& subject, Communicator world) {
         return with_gradients(model |
                               sequence_parallel({.ring = world, .split = subject.tokens, .min_share = 1}));
       }},
      {"sequence, ring x ulysses",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = grid(world, "ring", "ulysses");
         return with_gradients(model | sequence_parallel({.ulysses = mesh["ulysses"],
                                                          .ring = mesh["ring"],
                                                          .split = subject.tokens,
                                                          .min_share = 1}));
       }},
      {"sequence, balanced for causal attention",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = grid(world, "ring", "ulysses");
         return with_gradients(model | sequence_parallel({.ulysses = mesh["ulysses"],
                                                          .ring = mesh["ring"],
                                                          .split = subject.tokens,
                                                          .balance_causal = true,
                                                          .min_share = 1}));
       }},
      {"patches, without steps",
       [](Model model, const Subject& subject, Communicator world) {
         return with_gradients(model | patch_parallel(patches(world, subject)));
       }},
      {"patches over ulysses, without steps",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = grid(world, "patch", "ulysses");
         auto options = patches(mesh["patch"], subject);
         options.ulysses = mesh["ulysses"];
         return with_gradients(model | patch_parallel(options));
       }},
      {"sharded, full_shard", sharded(Sharding::full_shard)},
      {"sharded, shard_grad_op", sharded(Sharding::shard_grad_op)},
      {"sharded, no_shard", sharded(Sharding::no_shard)},
      {"sharded, hybrid",
       [](Model model, const Subject&, Communicator world) {
         auto mesh = grid(world, "replicate", "shard");
         return averaging(model | sharded_params({.group = mesh["shard"], .replicate = mesh["replicate"]}));
       }},
      {"data, the whole batch given to every rank",
       [](Model model, const Subject& subject, Communicator world) {
         Model wrapped = model | data_parallel({.group = world, .batch = subject.batch});
         return Wrapped{wrapped, gradients_of(wrapped)};
       }},
      {"data, a batch of each rank's own",
       [](Model model, const Subject&, Communicator world) {
         Model wrapped = model | data_parallel({.group = world, .mode = wanpar::BatchMode::local});
         return Wrapped{wrapped, gradients_of(wrapped), true};
       }},
      {"pipeline",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = staged(world, subject);
         Model whole = model | block_pipeline(over(mesh, subject));
         return Wrapped{whole, of_all_stages(gradients_of(whole), mesh["stages"], model)};
       },
       true},
  };
  return all;
}

const std::vector<Strategy>& compositions() {
  static const std::vector<Strategy> all{
      {"model | sharded | sequence",
       [](Model model, const Subject& subject, Communicator world) {
         auto sharded = model | sharded_params({.group = world});
         Model whole = sharded | sequence_parallel({.ring = world, .split = subject.tokens, .min_share = 1});
         return Wrapped{whole, gradients_of_shards(sharded)};
       }},
      {"model | sharded | patches",
       [](Model model, const Subject& subject, Communicator world) {
         auto sharded = model | sharded_params({.group = world});
         Model whole = sharded | patch_parallel(patches(world, subject));
         return Wrapped{whole, gradients_of_shards(sharded)};
       }},
      {"model | patches | data",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = grid(world, "data", "patch");
         Model split = model | patch_parallel(patches(mesh["patch"], subject));
         Model whole = split | data_parallel({.group = mesh["data"], .batch = subject.batch});
         return Wrapped{whole, gradients_of(whole)};
       }},
      {"model | patches | pipeline",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = staged(world, subject);
         Model split = model | patch_parallel(patches(mesh["beside"], subject));
         Model whole = split | block_pipeline(over(mesh, subject));
         return Wrapped{whole, of_all_stages(gradients_of(whole), mesh["stages"], model)};
       },
       true},
      {"model | sequence | sharded",
       [](Model model, const Subject& subject, Communicator world) {
         Model split = model | sequence_parallel({.ulysses = world, .split = subject.tokens, .min_share = 1});
         auto sharded = split | sharded_params({.group = world});
         return Wrapped{sharded, gradients_of_shards(sharded)};
       }},
      {"model | sequence | data",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = grid(world, "data", "sequence");
         Model split = model | sequence_parallel(
                                   {.ulysses = mesh["sequence"], .split = subject.tokens, .min_share = 1});
         Model whole = split | data_parallel({.group = mesh["data"], .batch = subject.batch});
         return Wrapped{whole, gradients_of(whole)};
       }},
      {"model | sharded | data",
       [](Model model, const Subject& subject, Communicator world) {
         auto sharded = model | sharded_params({.group = world});
         Model whole = sharded | data_parallel({.group = world, .batch = subject.batch});
         return Wrapped{whole, gradients_of_shards(sharded)};
       }},
      {"model | data | sharded",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = grid(world, "data", "shard");
         Model parts = model | data_parallel({.group = mesh["data"], .batch = subject.batch});
         auto sharded = parts | sharded_params({.group = mesh["shard"], .replicate = mesh["data"]});
         return Wrapped{sharded, gradients_of_shards(sharded)};
       }},
      {"model | sharded | sequence | data, over a mesh",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = cube(world);
         auto sharded = model | sharded_params({.group = world});
         Model split =
             sharded |
             sequence_parallel(
                 {.ulysses = mesh["ulysses"], .ring = mesh["ring"], .split = subject.tokens, .min_share = 1});
         Model whole = split | data_parallel({.group = mesh["data"], .batch = subject.batch});
         return Wrapped{whole, gradients_of_shards(sharded)};
       }},
      {"model | sequence | sharded | data, shards among the ranks that split tokens",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = grid(world, "data", "sequence");
         Model split =
             model | sequence_parallel({.ring = mesh["sequence"], .split = subject.tokens, .min_share = 1});
         auto sharded = split | sharded_params({.group = mesh["sequence"], .replicate = mesh["data"]});
         Model whole = sharded | data_parallel({.group = mesh["data"], .batch = subject.batch});
         return Wrapped{whole, gradients_of_shards(sharded)};
       }},
      {"model | checkpointing | sequence",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = grid(world, "ring", "ulysses");
         Model again = model | activation_checkpointing();
         return with_gradients(again | sequence_parallel({.ulysses = mesh["ulysses"],
                                                          .ring = mesh["ring"],
                                                          .split = subject.tokens,
                                                          .min_share = 1}));
       },
       true, true},
      {"model | sharded | sequence | checkpointing | data",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = grid(world, "data", "sequence");
         auto sharded = model | sharded_params({.group = world});
         Model split =
             sharded | sequence_parallel({.ring = mesh["sequence"], .split = subject.tokens, .min_share = 1});
         Model again = split | activation_checkpointing();
         Model whole = again | data_parallel({.group = mesh["data"], .batch = subject.batch});
         return Wrapped{whole, gradients_of_shards(sharded)};
       },
       true, true},
      {"model | sequence | checkpointing | pipeline",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = staged(world, subject);
         Model split =
             model | sequence_parallel({.ulysses = mesh["beside"], .split = subject.tokens, .min_share = 1});
         Model again = split | activation_checkpointing();
         Model whole = again | block_pipeline(over(mesh, subject));
         return Wrapped{whole, of_all_stages(gradients_of(whole), mesh["stages"], model)};
       },
       true, true},
      {"model | sequence | pipeline",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = staged(world, subject);
         Model split =
             model | sequence_parallel({.ulysses = mesh["beside"], .split = subject.tokens, .min_share = 1});
         Model whole = split | block_pipeline(over(mesh, subject));
         return Wrapped{whole, of_all_stages(gradients_of(whole), mesh["stages"], model)};
       },
       true},
      {"model | pipeline | sequence",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = staged(world, subject);
         Model stage = model | block_pipeline(over(mesh, subject));
         Model whole =
             stage | sequence_parallel({.ring = mesh["beside"], .split = subject.tokens, .min_share = 1});
         return Wrapped{whole, of_all_stages(gradients_of(whole), mesh["stages"], model)};
       },
       true},
      {"model | pipeline | data",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = staged(world, subject);
         Model stage = model | block_pipeline(over(mesh, subject));
         Model whole = stage | data_parallel(among(mesh["beside"], subject));
         return Wrapped{whole, of_all_stages(gradients_of(whole), mesh["stages"], model)};
       },
       true},
      {"model | data | pipeline",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = staged(world, subject);
         Model parts = model | data_parallel(among(mesh["beside"], subject));
         Model whole = parts | block_pipeline(over(mesh, subject));
         return Wrapped{whole, of_all_stages(gradients_of(whole), mesh["stages"], model)};
       },
       true},
      {"model | sharded | pipeline",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = staged(world, subject);
         auto sharded = model | sharded_params({.group = mesh["beside"]});
         Model whole = sharded | block_pipeline(over(mesh, subject));
         return Wrapped{whole, of_all_stages(gradients_of_shards(sharded), mesh["stages"], model)};
       },
       true},
      {"model | pipeline | sharded",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = staged(world, subject);
         Model stage = model | block_pipeline(over(mesh, subject));
         auto sharded = stage | sharded_params({.group = mesh["beside"]});
         return Wrapped{sharded, of_all_stages(gradients_of_shards(sharded), mesh["stages"], model)};
       },
       true},
      {"model | distribution | sharded | sequence",
       [](Model model, const Subject& subject, Communicator world) {
         Model placed = model | block_distribution({.devices = {at::kCPU, at::kCPU}});
         auto sharded = placed | sharded_params({.group = world});
         Model whole = sharded | sequence_parallel({.ring = world, .split = subject.tokens, .min_share = 1});
         return Wrapped{whole, gradients_of_shards(sharded)};
       },
       true, true},
      {"model | pipeline | distribution | data",
       [](Model model, const Subject& subject, Communicator world) {
         auto mesh = staged(world, subject, 2);
         Model stage = model | block_pipeline(over(mesh, subject));
         Model placed = stage | block_distribution({.devices = {at::kCPU, at::kCPU}});
         Model whole = placed | data_parallel(among(mesh["beside"], subject));
         return Wrapped{whole, of_all_stages(gradients_of(whole), mesh["stages"], model)};
       },
       true, true},
  };
  return all;
}
