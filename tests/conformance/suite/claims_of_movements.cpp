#include <fmt/format.h>
#include <torch/types.h>
#include <wanpar/core/mesh.hpp>

#include <algorithm>
#include <wanpar/extend/conformance/require.hpp>

#include "transport_claims.hpp"
#include "values.hpp"

namespace wanpar::conformance {
namespace {

at::Tensor joined(int ranks, int64_t dim, const std::function<at::Tensor(int)>& piece) {
  std::vector<at::Tensor> pieces;
  for (int r = 0; r < ranks; ++r) pieces.push_back(piece(r).unsqueeze(-1).view(at::kByte));  // any dtype
  return at::cat(pieces, dim < 0 ? dim - 1 : dim).view(piece(0).scalar_type()).squeeze(-1);
}
}  // namespace

std::vector<TransportClaim> claims_of_movements() {
  return {
      {"a conjugate moves as what it stands for",
       [](Communicator world) {
         if (world.size() == 1) return;  // there the result is the tensor that was given
         auto x = at::complex(at::arange(6.0), at::ones({6})).view({2, 3});
         require_equal(world.broadcast(x.conj()).get(), x.conj().resolve_conj(), "broadcast");
         for (int64_t dim : {0, 1})
           require_equal(world.all_gather(x.conj(), dim).get().narrow(dim, 0, x.size(dim)).contiguous(),
                         x.conj().resolve_conj(), "all_gather");
         require_close(at::view_as_real(world.all_reduce(x.t().conj(), ReduceOp::mean).get()),
                       at::view_as_real(x.t().conj().resolve_conj()), 1e-6, "all_reduce");
       }},
      {"all_gather joins even and uneven pieces along any dimension, in each dtype",
       [](Communicator world) {
         auto sizes = uneven(world.size());
         for (auto dtype : kMovable) {
           auto even = [&](int r) { return values(r, {2, 3, 4}, dtype); };
           auto rough = [&](int r) { return values(r, {2, sizes[r], 4}, dtype); };
           for (int64_t dim : {0, 1, -1})
             require_equal(world.all_gather(even(world.rank()), dim).get(), joined(world.size(), dim, even),
                           "even");
           require_equal(world.all_gather(rough(world.rank()), 1, sizes).get(),
                         joined(world.size(), 1, rough), "uneven");
         }
       }},
      {"all_to_all trades tokens for heads and back, even and uneven",
       [](Communicator world) {
         auto tokens = uneven(world.size()), heads = even_sizes(5, world.size());
         for (auto dtype : kMovable) {
           auto shard = [&](int r) { return values(r, {tokens[r], 5, 2}, dtype); };
           auto heads_of_all = joined(world.size(), 0, shard);
           auto begin = at::tensor(heads).narrow(0, 0, world.rank()).sum().item<int64_t>();
           auto traded = world.all_to_all(shard(world.rank()), 1, 0, heads, tokens).get();
           require_equal(traded, heads_of_all.narrow(1, begin, heads[world.rank()]), "to heads");
           require_equal(world.all_to_all(traded, 0, 1, tokens, heads).get(), shard(world.rank()),
                         "and back");
         }
         auto x = values(world.rank(), {3, 2 * world.size()}, at::kInt);
         require_equal(world.all_to_all(x, 1, 0).get(),
                       joined(world.size(), 0,
                              [&](int r) {
                                return values(r, {3, 2 * world.size()}, at::kInt);
                              })
                           .narrow(1, 2 * world.rank(), 2),
                       "even");
       }},
      {"all_to_all_packed moves what each pair agreed on, nothing at all included",
       [](Communicator world) {
         auto count = [&](int from, int to) { return int64_t{(from + 2 * to) % 4}; };
         std::vector<int64_t> send, receive;
         std::vector<at::Tensor> out, expected;
         for (int r = 0; r < world.size(); ++r) {
           send.push_back(count(world.rank(), r)), receive.push_back(count(r, world.rank()));
           out.push_back(at::full({send.back()}, 10.0 * world.rank() + r)),
               expected.push_back(at::full({receive.back()}, 10.0 * r + world.rank()));
         }
         require_equal(world.all_to_all_packed(at::cat(out), send, receive).get(), at::cat(expected),
                       "packed");
       }},
      {"what has no arithmetic moves all the same",
       [](Communicator world) {
         for (auto dtype : kBytesAlone) {
           auto piece = [&](int r) { return values(r, {2, world.size()}, dtype); };
           require_equal(world.all_gather(piece(world.rank()), 1).get(), joined(world.size(), 1, piece),
                         "gathered");
           if (world.size() == 1) continue;
           auto column = [&](int r) { return piece(r).narrow(1, world.rank(), 1).clone(); };
           require_equal(world.all_to_all(piece(world.rank()), 1, 0).get(), joined(world.size(), 0, column),
                         "traded");
         }
       }},
      {"broadcast gives every rank the root's tensor",
       [](Communicator world) {
         for (auto dtype : kMovable)
           for (int root : {0, world.size() - 1})
             require_equal(world.broadcast(values(world.rank(), {4, 3}, dtype), root).get(),
                           values(root, {4, 3}, dtype), "broadcast");
       }},
      {"exchange sends round a ring, several at once, in order",
       [](Communicator world) {
         int next = (world.rank() + 1) % world.size(),
             previous = (world.rank() + world.size() - 1) % world.size();
         if (world.size() == 1) return;
         for (auto dtype : kMovable) {
           std::vector<Send> sends{{values(world.rank(), {3}, dtype), next},
                                   {values(world.rank() + 1, {2, 2}, dtype), next}};
           std::vector<Receive> receives{{{3}, dtype, previous}, {{2, 2}, dtype, previous}};
           auto came = world.exchange(sends, receives).get();
           require_equal(came[0], values(previous, {3}, dtype), "first");
           require_equal(came[1], values(previous + 1, {2, 2}, dtype), "second");
         }
       }},
  };
}

}  // namespace wanpar::conformance
