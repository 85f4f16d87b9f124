#include <doctest/doctest.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/strategy/activation_checkpointing.hpp>
#include <wanpar/strategy/block_distribution.hpp>
#include <wanpar/strategy/block_pipeline.hpp>
#include <wanpar/strategy/data_parallel.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>
#include <wanpar/strategy/sharded_params.hpp>

#include "suite.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::data_parallel;
using wanpar::Model;
using wanpar::sequence_parallel;
using wanpar::sharded_params;

namespace nesting_test {
namespace {

/// On every rank of worlds that two strategies can share, with and without gradients.
void refused(const std::function<Model(Model, const Subject&, wanpar::Mesh&)>& wrap,
             const std::string& words) {
  auto& subject = subjects().front();
  on_worlds(
      [&](Communicator world) {
        auto outer = world.size() % 2 ? world.size() : 2;
        wanpar::Mesh mesh(world, {{"a", outer}, {"b", world.size() / outer}});
        for (bool trains : {false, true}) {
          at::AutoGradMode mode(trains);
          require_error([&] { wrap(subject.make(at::kFloat), subject, mesh).call(subject.inputs(4, 8)); },
                        words);
          world.barrier();
        }
      },
      {2, 4});
}

}  // namespace

TEST_CASE("DataParallel inside SequenceParallel is an error that says to swap them") {
  refused(
      [](Model model, const Subject& subject, wanpar::Mesh& mesh) {
        return model | data_parallel({.group = mesh["a"], .batch = subject.batch}) |
               sequence_parallel({.ring = mesh.world(), .split = subject.tokens, .min_share = 1});
      },
      "swap the two: model | sequence_parallel(…) | data_parallel(…)");
}

TEST_CASE("so it is where a module hides the inner one") {
  refused(
      [](Model model, const Subject& subject, wanpar::Mesh& mesh) {
        auto hidden = [inner = Model(model | data_parallel({.group = mesh["a"], .batch = subject.batch}))](
                          at::Tensor x, at::Tensor context) mutable { return inner(x * 2, context); };
        return Model(hidden) |
               sequence_parallel({.ring = mesh.world(), .split = subject.tokens, .min_share = 1});
      },
      "swap the two");
}

TEST_CASE("SequenceParallel inside SequenceParallel is an error that says to wrap once") {
  refused(
      [](Model model, const Subject& subject, wanpar::Mesh& mesh) {
        return model | sequence_parallel({.ulysses = mesh["a"], .split = subject.tokens, .min_share = 1}) |
               sequence_parallel({.ring = mesh.world(), .split = subject.tokens, .min_share = 1});
      },
      "wrap the module once, with both groups as .ring and .ulysses");
}

TEST_CASE("ShardedParams inside ShardedParams is an error") {
  refused(
      [](Model model, const Subject&, wanpar::Mesh& mesh) {
        return model | sharded_params({.group = mesh["a"]}) | sharded_params({.group = mesh.world()});
      },
      "is sharded already");
}

TEST_CASE("a strategy over blocks inside of itself is an error that says to wrap once") {
  using wanpar::activation_checkpointing, wanpar::block_distribution, wanpar::block_pipeline;
  refused(
      [](Model, const Subject& subject, wanpar::Mesh& mesh) {
        return subject.stacked(at::kFloat) | block_pipeline({.stages = mesh["a"]}) |
               block_pipeline({.stages = mesh["a"]});
      },
      "BlockPipeline: inside of another one, which has the blocks already; wrap the module once");
  refused(
      [](Model, const Subject& subject, wanpar::Mesh&) {
        return subject.stacked(at::kFloat) | block_distribution({.devices = {at::kCPU, at::kCPU}}) |
               block_distribution({.devices = {at::kCPU}});
      },
      "BlockDistribution: inside of another one");
  refused(
      [](Model, const Subject& subject, wanpar::Mesh&) {
        return subject.stacked(at::kFloat) | activation_checkpointing() | activation_checkpointing();
      },
      "ActivationCheckpointing: inside of another one");
}

TEST_CASE("sharded blocks that are to be moved to another device are an error that names the parameter") {
  refused(
      [](Model, const Subject& subject, wanpar::Mesh& mesh) {
        return subject.stacked(at::kFloat) | sharded_params({.group = mesh.world()}) |
               wanpar::block_distribution({.devices = {at::kCPU, at::kMeta}});
      },
      "of block 2 is sharded and cannot be moved from cpu to meta");
}

TEST_CASE("a batch split over ranks whose shards do not average its gradients is an error in training") {
  auto& subject = subjects().front();
  on_worlds(
      [&](Communicator world) {
        wanpar::Mesh mesh(world, {{"data", 2}, {"shard", world.size() / 2}});
        auto wrapped = Model(subject.make(at::kDouble)) | sharded_params({.group = mesh["shard"]}) |
                       data_parallel({.group = mesh["data"], .batch = subject.batch});
        auto arguments = subject.inputs(4, 8);
        require_error([&] { wrapped(arguments[0], arguments[1]); },
                      "give this group to ShardedParams too, as .group or as .replicate");
        at::NoGradGuard no_grad;
        wrapped(arguments[0], arguments[1]);
        world.barrier();
      },
      {2, 4, 8});
}

}  // namespace nesting_test
