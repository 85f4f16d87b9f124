#include <fmt/format.h>
#include <torch/types.h>
#include <wanpar/core/mesh.hpp>

#include <algorithm>
#include <wanpar/extend/conformance/require.hpp>

#include "transport_claims.hpp"

namespace wanpar::conformance {

std::vector<TransportClaim> claims_of_groups() {
  return {
      {"a receiver never sees what the sender writes later",
       [](Communicator world) {
         if (world.size() == 1) return;  // there the result is the tensor that was given
         auto x = at::full({1000}, 1.0 + world.rank());
         auto gathered = world.all_gather(x);
         auto sum = world.all_reduce(x);
         auto root = world.broadcast(x, 0);
         x.fill_(-1);
         auto expected = at::arange(1.0, 1.0 + world.size()).repeat_interleave(1000);
         require_equal(gathered.get(), expected.to(at::kFloat), "gathered");
         require_equal(sum.get(), at::full({1000}, world.size() * (world.size() + 1) / 2.0), "sum");
         require_equal(root.get(), at::ones({1000}), "root's");
       }},
      {"a receiver never sees what another rank writes to its own result",
       [](Communicator world) {
         if (world.size() == 1) return;
         auto x = at::full({1000}, 1.0 + world.rank());
         auto root = world.broadcast(x), gathered = world.all_gather(x), sum = world.all_reduce(x);
         if (world.rank() == 0) {  // the others look at theirs when it has written
           auto a = root.get(), b = gathered.get(), c = sum.get();
           a.fill_(-1), b.fill_(-1), c.fill_(-1);
         }
         world.barrier();
         if (world.rank() == 0) return;
         require_equal(root.get(), at::ones({1000}), "root's");
         auto expected = at::arange(1.0, 1.0 + world.size()).repeat_interleave(1000);
         require_equal(gathered.get(), expected.to(at::kFloat), "gathered");
         require_equal(sum.get(), at::full({1000}, world.size() * (world.size() + 1) / 2.0), "sum");
       }},
      {"results may be taken in another order than the calls were made, or not at all",
       [](Communicator world) {
         auto a = world.all_reduce(at::full({10}, 1.0));
         auto b = world.all_gather(at::full({1}, 2.0));
         { auto dropped = world.all_reduce(at::ones({5})); }
         require_equal(b.get(), at::full({world.size()}, 2.0), "second");
         require_equal(a.get(), at::full({10}, double(world.size())), "first");
         require_error([&] { (void)a.get(); }, "called twice");
       }},
      {"split and subgroup make groups that work and can be split again",
       [](Communicator world) {
         auto half = world.split(world.rank() % 2, -world.rank());  // ordered by falling rank
         auto sum = half.all_gather(at::tensor({int64_t{world.rank()}})).get();
         std::vector<int64_t> expected;
         for (int r = world.size() - 1; r >= 0; --r)
           if (r % 2 == world.rank() % 2) expected.push_back(r);
         require_equal(sum, at::tensor(expected), "members in order");
         half.split(half.rank()).barrier();
         world.barrier();
       }},
      {"a mesh puts each rank into one group an axis, row-major, in any order and flattened",
       [](Communicator world) {
         for (int64_t inner = 1; inner <= world.size(); ++inner) {
           if (world.size() % inner) continue;
           Mesh mesh(world, {{"outer", world.size() / inner}, {"inner", inner}});
           auto members = [&](const Communicator& group) {
             return group.all_gather(at::tensor({int64_t{world.rank()}})).get();
           };
           auto first = world.rank() / inner * inner;
           require_equal(members(mesh["inner"]), at::arange(first, first + inner), "inner");
           require_equal(members(mesh["outer"]), at::arange(world.rank() % inner, world.size(), inner),
                         "outer");
           require(mesh.index("inner") == world.rank() % inner && mesh.index("outer") == world.rank() / inner,
                   "index");
           require_equal(members(mesh.flatten({"outer", "inner"})), at::arange(world.size()), "flattened");
           require_equal(members(mesh.flatten({"inner", "outer"})),
                         at::arange(world.size()).view({-1, inner}).t().reshape({-1}),
                         "flattened the other way");
         }
         auto n = world.size();
         require_error(
             [&] {
               Mesh(world, {{"a", n}, {"b", 2}});
             },
             fmt::format("a {} x b 2 is {} ranks, but the group has {}", n, 2 * n, n));
         require_error([&] { Mesh(world, {{"a", n}, {"a", 1}}); }, "two axes are named 'a'");
         Mesh mesh(world, {{"a", n}});
         require_error([&] { (void)mesh["ring"]; }, "there is no axis 'ring'; there is a");
       }},
      {"arguments that do not fit are refused before anything moves, with the numbers",
       [](Communicator world) {
         auto n = world.size();
         auto x = at::zeros({2 * n + 1, 3});
         if (n > 1)
           require_error(
               [&] { (void)world.reduce_scatter(x); },
               fmt::format("dimension 0 has {} elements, which {} ranks cannot share", 2 * n + 1, n));
         std::vector<int64_t> wrong(n, 5);
         require_error([&] { (void)world.all_gather(x, 1, wrong); },
                       "say 5 for this rank, but its dimension 1 has 3");
         require_error([&] { (void)world.all_gather(x, 2); }, "dimension 2 of a tensor with 2 dimensions");
         require_error([&] { (void)world.broadcast(x, n); }, fmt::format("there is no rank {}", n));
         auto quantized = at::quantize_per_tensor(x, 0.1, 0, at::kQInt8);
         require_error([&] { (void)world.all_gather(quantized); }, "QInt8 cannot be moved");
         require_error([&] { (void)world.all_reduce(x.to(at::kComplexFloat), ReduceOp::max); },
                       "of complex numbers there are a sum and a mean");
         require_error([&] { (void)world.all_reduce(x.to(at::kUInt16)); }, "UInt16 moves as bytes");
         require_error([&] { (void)world.all_reduce(x.to(at::kInt), ReduceOp::mean); },
                       "mean of whole numbers");
         require_error([&] { (void)world.all_reduce(x.to(at::kFloat8_e4m3fn)); }, "cannot be reduced");
         require_error([&] { (void)world.all_reduce(x.to(at::kFloat8_e5m2)); }, "cannot be reduced");
         require_error([&] { (void)world.all_reduce(at::zeros({2}).requires_grad_()); },
                       "requires a gradient");
         require_error([&] { (void)world.exchange({{x, world.rank()}}, {}); }, "cannot send to itself");
         world.barrier();  // the group is as good as before
       }},
  };
}

}  // namespace wanpar::conformance
