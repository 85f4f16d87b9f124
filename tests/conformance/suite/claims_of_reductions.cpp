#include <fmt/format.h>
#include <torch/types.h>
#include <wanpar/core/mesh.hpp>

#include <algorithm>
#include <wanpar/extend/conformance/require.hpp>

#include "transport_claims.hpp"
#include "values.hpp"

namespace wanpar::conformance {
namespace {

at::Tensor float64(const at::Tensor& t) { return t.to(t.is_complex() ? at::kComplexDouble : at::kDouble); }

at::Tensor of_rank(int rank, int64_t length, at::ScalarType dtype) {
  return (at::arange(length) * (rank + 1) + rank).remainder(5).add(1).to(dtype);
}

}  // namespace

std::vector<TransportClaim> claims_of_reductions() {
  return {
      {"all_reduce gives every rank the same reduction, in each dtype",
       [](Communicator world) {
         for (auto dtype : kReducible) {
           auto expected = float64(values(0, {3, 5}, dtype));
           for (int r = 1; r < world.size(); ++r) expected = expected + float64(values(r, {3, 5}, dtype));
           if (dtype == at::kBool) expected = expected.ne(0);
           require_equal(world.all_reduce(values(world.rank(), {3, 5}, dtype)).get(), expected.to(dtype),
                         "sum");
         }
       }},
      {"all_reduce knows product, minimum, maximum and mean",
       [](Communicator world) {
         auto all = [&] {
           std::vector<at::Tensor> each;
           for (int r = 0; r < world.size(); ++r) each.push_back(values(r, {7}, at::kDouble) + 1);
           return at::stack(each);
         }();
         auto mine = all[world.rank()];
         require_close(world.all_reduce(mine, ReduceOp::product).get(), all.prod(0), 1e-9, "product");
         require_equal(world.all_reduce(mine, ReduceOp::min).get(), std::get<0>(all.min(0)), "minimum");
         require_equal(world.all_reduce(mine, ReduceOp::max).get(), std::get<0>(all.max(0)), "maximum");
         require_close(world.all_reduce(mine, ReduceOp::mean).get(), all.mean(0), 1e-12, "mean");
         require_equal(world.all_reduce(mine.to(at::kBFloat16), ReduceOp::max).get(),
                       std::get<0>(all.max(0)).to(at::kBFloat16), "maximum of bfloat16");
       }},
      {"a mean of float16 does not leave its range where the sum would",
       [](Communicator world) {
         auto x = at::full({4}, 60'000.0, at::kHalf);
         require_equal(world.all_reduce(x, ReduceOp::mean).get(), x, "all_reduce");
         require_equal(world.reduce_scatter(x.repeat(world.size()), 0, {}, ReduceOp::mean).get(), x,
                       "reduce_scatter");
       }},
      {"reduce_scatter gives each rank its piece of the reduction, even and uneven",
       [](Communicator world) {
         auto sizes = uneven(world.size());
         auto whole = [&](int r, at::ScalarType dtype) {
           return values(r, {2, at::tensor(sizes).sum().item<int64_t>()}, dtype);
         };
         for (auto dtype : kReducible) {
           auto expected = float64(whole(0, dtype));
           for (int r = 1; r < world.size(); ++r) expected = expected + float64(whole(r, dtype));
           if (dtype == at::kBool) expected = expected.ne(0);
           auto mine = expected.split_with_sizes(sizes, 1)[world.rank()].to(dtype);
           require_equal(world.reduce_scatter(whole(world.rank(), dtype), 1, sizes).get(), mine, "uneven");
         }
         auto x = values(world.rank(), {2 * world.size(), 3}, at::kFloat);
         auto expected = at::zeros_like(x);
         for (int r = 0; r < world.size(); ++r) expected += values(r, {2 * world.size(), 3}, at::kFloat);
         require_equal(world.reduce_scatter(x).get(), expected.narrow(0, 2 * world.rank(), 2), "even");
       }},
      {"all_reduce is the same on every rank, whatever its length and that of its pieces",
       [](Communicator world) {
         for (auto dtype : {at::kFloat, at::kLong})
           for (auto length : {0, 1, 2, 5, 8, 1000, 1003})
             for (auto op : {ReduceOp::sum, ReduceOp::product, ReduceOp::min, ReduceOp::max}) {
               auto result = world.all_reduce(of_rank(world.rank(), length, dtype), op).get();
               auto expected = of_rank(0, length, at::kDouble);
               for (int rank = 1; rank < world.size(); ++rank) {
                 auto next = of_rank(rank, length, at::kDouble);
                 expected = op == ReduceOp::sum       ? expected + next
                            : op == ReduceOp::product ? expected * next
                            : op == ReduceOp::min     ? at::minimum(expected, next)
                                                      : at::maximum(expected, next);
               }
               auto what = fmt::format("{} elements", length);
               require_equal(result, expected.to(dtype), what);
               require_equal(result, world.broadcast(result, 0).get(), what + " are rank 0's");
             }
       }},
      {"an all_reduce that all have begun ends while some of them wait for something else",
       [](Communicator world) {
         auto pending = world.all_reduce(at::ones({100}));
         auto is_last = world.rank() == world.size() - 1;
         auto mine = is_last ? pending.get() : at::Tensor();
         world.barrier();
         if (!is_last) mine = pending.get();
         require_equal(mine, at::full({100}, static_cast<double>(world.size())), "sum");
       }},
  };
}

}  // namespace wanpar::conformance
