#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/types.h>
#include <wanpar/core/mesh.hpp>
#include <wanpar/transport/local.hpp>

#include "transports.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::ReduceOp;

namespace communicator_test {
namespace {

const std::vector<at::ScalarType> kReducible{at::kDouble, at::kFloat, at::kHalf,         at::kBFloat16,
                                             at::kLong,   at::kInt,   at::kShort,        at::kChar,
                                             at::kByte,   at::kBool,  at::kComplexFloat, at::kComplexDouble};
/// Of these LibTorch knows little more than how many bytes an element has.
const std::vector<at::ScalarType> kBytesAlone{at::kUInt16,      at::kUInt32,          at::kUInt64,
                                              at::kComplexHalf, at::kFloat8_e4m3fn,   at::kFloat8_e4m3fnuz,
                                              at::kFloat8_e5m2, at::kFloat8_e5m2fnuz, at::kFloat8_e8m0fnu};
const std::vector<at::ScalarType> kMovable = [] {
  auto all = kReducible;
  all.push_back(at::kFloat8_e4m3fn);
  return all;
}();
/// What rank r holds: small whole numbers, exact in every dtype, different on every rank.
at::Tensor values(int rank, std::vector<int64_t> shape, at::ScalarType dtype) {
  auto n = c10::multiply_integers(shape);
  if (std::ranges::count(kBytesAlone, dtype)) {
    shape.push_back(static_cast<int64_t>(c10::elementSize(dtype)));
    auto bytes = at::arange(n * shape.back()).add(rank * 3).remainder(7).to(at::kByte);
    return bytes.view(shape).view(dtype).squeeze(-1);
  }
  return at::arange(n)
      .add(rank * 3)
      .remainder(dtype == at::kBool ? 2 : 7)
      .view(shape)
      .to(at::kFloat)
      .to(dtype);
}

at::Tensor float64(const at::Tensor& t) { return t.to(t.is_complex() ? at::kComplexDouble : at::kDouble); }

/// Rank r's extent where extents are uneven; rank 1's is empty.
std::vector<int64_t> uneven(int ranks) {
  std::vector<int64_t> sizes;
  for (int r = 0; r < ranks; ++r) sizes.push_back(r == 1 ? 0 : r + 2);
  return sizes;
}

at::Tensor joined(int ranks, int64_t dim, const std::function<at::Tensor(int)>& piece) {
  std::vector<at::Tensor> pieces;
  for (int r = 0; r < ranks; ++r) pieces.push_back(piece(r).unsqueeze(-1).view(at::kByte));  // any dtype
  return at::cat(pieces, dim < 0 ? dim - 1 : dim).view(piece(0).scalar_type()).squeeze(-1);
}

}  // namespace

TEST_CASE("all_reduce gives every rank the same reduction, in each dtype") {
  on_transports([](Communicator world) {
    for (auto dtype : kReducible) {
      auto expected = float64(values(0, {3, 5}, dtype));
      for (int r = 1; r < world.size(); ++r) expected = expected + float64(values(r, {3, 5}, dtype));
      if (dtype == at::kBool) expected = expected.ne(0);
      require_equal(world.all_reduce(values(world.rank(), {3, 5}, dtype)).get(), expected.to(dtype), "sum");
    }
  });
}

TEST_CASE("all_reduce knows product, minimum, maximum and mean") {
  on_transports([](Communicator world) {
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
  });
}

TEST_CASE("true on some rank is true and on all is true, however many there are") {
  auto claim = [](Communicator world) {
    auto bools = [](std::vector<int64_t> values) { return at::tensor(values).to(at::kBool); };
    auto mine = bools({1, world.rank() == 3, 0});
    require_equal(world.all_reduce(mine).get(), bools({1, 1, 0}), "any");
    require_equal(world.all_reduce(mine, ReduceOp::product).get(), bools({1, 0, 0}), "all");
    require_equal(world.reduce_scatter(at::ones({world.size()}, at::kBool)).get(), bools({1}), "one");
  };
  CHECK_NOTHROW(wanpar::local::run(256, claim, {.checks = wanpar::Checks::off}));
}

TEST_CASE("a mean of float16 does not leave its range where the sum would") {
  on_transports([](Communicator world) {
    auto x = at::full({4}, 60'000.0, at::kHalf);
    require_equal(world.all_reduce(x, ReduceOp::mean).get(), x, "all_reduce");
    require_equal(world.reduce_scatter(x.repeat(world.size()), 0, {}, ReduceOp::mean).get(), x,
                  "reduce_scatter");
  });
}

TEST_CASE("a conjugate moves as what it stands for") {
  on_transports([](Communicator world) {
    if (world.size() == 1) return;  // there the result is the tensor that was given
    auto x = at::complex(at::arange(6.0), at::ones({6})).view({2, 3});
    require_equal(world.broadcast(x.conj()).get(), x.conj().resolve_conj(), "broadcast");
    for (int64_t dim : {0, 1})
      require_equal(world.all_gather(x.conj(), dim).get().narrow(dim, 0, x.size(dim)).contiguous(),
                    x.conj().resolve_conj(), "all_gather");
    require_close(at::view_as_real(world.all_reduce(x.t().conj(), ReduceOp::mean).get()),
                  at::view_as_real(x.t().conj().resolve_conj()), 1e-6, "all_reduce");
  });
}

TEST_CASE("all_gather joins even and uneven pieces along any dimension, in each dtype") {
  on_transports([](Communicator world) {
    auto sizes = uneven(world.size());
    for (auto dtype : kMovable) {
      auto even = [&](int r) { return values(r, {2, 3, 4}, dtype); };
      auto rough = [&](int r) { return values(r, {2, sizes[r], 4}, dtype); };
      for (int64_t dim : {0, 1, -1})
        require_equal(world.all_gather(even(world.rank()), dim).get(), joined(world.size(), dim, even),
                      "even");
      require_equal(world.all_gather(rough(world.rank()), 1, sizes).get(), joined(world.size(), 1, rough),
                    "uneven");
    }
  });
}

TEST_CASE("reduce_scatter gives each rank its piece of the reduction, even and uneven") {
  on_transports([](Communicator world) {
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
  });
}

TEST_CASE("all_to_all trades tokens for heads and back, even and uneven") {
  on_transports([](Communicator world) {
    auto tokens = uneven(world.size()), heads = wanpar::even_sizes(5, world.size());
    for (auto dtype : kMovable) {
      auto shard = [&](int r) { return values(r, {tokens[r], 5, 2}, dtype); };
      auto heads_of_all = joined(world.size(), 0, shard);
      auto begin = at::tensor(heads).narrow(0, 0, world.rank()).sum().item<int64_t>();
      auto traded = world.all_to_all(shard(world.rank()), 1, 0, heads, tokens).get();
      require_equal(traded, heads_of_all.narrow(1, begin, heads[world.rank()]), "to heads");
      require_equal(world.all_to_all(traded, 0, 1, tokens, heads).get(), shard(world.rank()), "and back");
    }
    auto x = values(world.rank(), {3, 2 * world.size()}, at::kInt);
    require_equal(world.all_to_all(x, 1, 0).get(),
                  joined(world.size(), 0,
                         [&](int r) {
                           return values(r, {3, 2 * world.size()}, at::kInt);
                         })
                      .narrow(1, 2 * world.rank(), 2),
                  "even");
  });
}

TEST_CASE("all_to_all_packed moves what each pair agreed on, nothing at all included") {
  on_transports([](Communicator world) {
    auto count = [&](int from, int to) { return int64_t{(from + 2 * to) % 4}; };
    std::vector<int64_t> send, receive;
    std::vector<at::Tensor> out, expected;
    for (int r = 0; r < world.size(); ++r) {
      send.push_back(count(world.rank(), r)), receive.push_back(count(r, world.rank()));
      out.push_back(at::full({send.back()}, 10.0 * world.rank() + r)),
          expected.push_back(at::full({receive.back()}, 10.0 * r + world.rank()));
    }
    require_equal(world.all_to_all_packed(at::cat(out), send, receive).get(), at::cat(expected), "packed");
  });
}

TEST_CASE("what has no arithmetic moves all the same") {
  on_transports([](Communicator world) {
    for (auto dtype : kBytesAlone) {
      auto piece = [&](int r) { return values(r, {2, world.size()}, dtype); };
      require_equal(world.all_gather(piece(world.rank()), 1).get(), joined(world.size(), 1, piece),
                    "gathered");
      if (world.size() == 1) continue;
      auto column = [&](int r) { return piece(r).narrow(1, world.rank(), 1).clone(); };
      require_equal(world.all_to_all(piece(world.rank()), 1, 0).get(), joined(world.size(), 0, column),
                    "traded");
    }
  });
}

TEST_CASE("broadcast gives every rank the root's tensor") {
  on_transports([](Communicator world) {
    for (auto dtype : kMovable)
      for (int root : {0, world.size() - 1})
        require_equal(world.broadcast(values(world.rank(), {4, 3}, dtype), root).get(),
                      values(root, {4, 3}, dtype), "broadcast");
  });
}

TEST_CASE("exchange sends round a ring, several at once, in order") {
  on_transports([](Communicator world) {
    int next = (world.rank() + 1) % world.size(), previous = (world.rank() + world.size() - 1) % world.size();
    if (world.size() == 1) return;
    for (auto dtype : kMovable) {
      std::vector<wanpar::Send> sends{{values(world.rank(), {3}, dtype), next},
                                      {values(world.rank() + 1, {2, 2}, dtype), next}};
      std::vector<wanpar::Receive> receives{{{3}, dtype, previous}, {{2, 2}, dtype, previous}};
      auto came = world.exchange(sends, receives).get();
      require_equal(came[0], values(previous, {3}, dtype), "first");
      require_equal(came[1], values(previous + 1, {2, 2}, dtype), "second");
    }
  });
}

TEST_CASE("a receiver never sees what the sender writes later") {
  on_transports([](Communicator world) {
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
  });
}

TEST_CASE("a receiver never sees what another rank writes to its own result") {
  on_transports([](Communicator world) {
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
  });
}

TEST_CASE("results may be taken in another order than the calls were made, or not at all") {
  on_transports([](Communicator world) {
    auto a = world.all_reduce(at::full({10}, 1.0));
    auto b = world.all_gather(at::full({1}, 2.0));
    { auto dropped = world.all_reduce(at::ones({5})); }
    require_equal(b.get(), at::full({world.size()}, 2.0), "second");
    require_equal(a.get(), at::full({10}, double(world.size())), "first");
    require_error([&] { (void)a.get(); }, "called twice");
  });
}

TEST_CASE("split and subgroup make groups that work and can be split again") {
  on_transports([](Communicator world) {
    auto half = world.split(world.rank() % 2, -world.rank());  // ordered by falling rank
    auto sum = half.all_gather(at::tensor({int64_t{world.rank()}})).get();
    std::vector<int64_t> expected;
    for (int r = world.size() - 1; r >= 0; --r)
      if (r % 2 == world.rank() % 2) expected.push_back(r);
    require_equal(sum, at::tensor(expected), "members in order");
    half.split(half.rank()).barrier();
    world.barrier();
  });
}

TEST_CASE("a mesh puts each rank into one group an axis, row-major, in any order and flattened") {
  on_transports([](Communicator world) {
    for (int64_t inner = 1; inner <= world.size(); ++inner) {
      if (world.size() % inner) continue;
      wanpar::Mesh mesh(world, {{"outer", world.size() / inner}, {"inner", inner}});
      auto members = [&](const Communicator& group) {
        return group.all_gather(at::tensor({int64_t{world.rank()}})).get();
      };
      auto first = world.rank() / inner * inner;
      require_equal(members(mesh["inner"]), at::arange(first, first + inner), "inner");
      require_equal(members(mesh["outer"]), at::arange(world.rank() % inner, world.size(), inner), "outer");
      require(mesh.index("inner") == world.rank() % inner && mesh.index("outer") == world.rank() / inner,
              "index");
      require_equal(members(mesh.flatten({"outer", "inner"})), at::arange(world.size()), "flattened");
      require_equal(members(mesh.flatten({"inner", "outer"})),
                    at::arange(world.size()).view({-1, inner}).t().reshape({-1}), "flattened the other way");
    }
    auto n = world.size();
    require_error(
        [&] {
          wanpar::Mesh(world, {{"a", n}, {"b", 2}});
        },
        fmt::format("a {} x b 2 is {} ranks, but the group has {}", n, 2 * n, n));
    require_error([&] { wanpar::Mesh(world, {{"a", n}, {"a", 1}}); }, "two axes are named 'a'");
    wanpar::Mesh mesh(world, {{"a", n}});
    require_error([&] { (void)mesh["ring"]; }, "there is no axis 'ring'; there is a");
  });
}

TEST_CASE("arguments that do not fit are refused before anything moves, with the numbers") {
  on_transports([](Communicator world) {
    auto n = world.size();
    auto x = at::zeros({2 * n + 1, 3});
    if (n > 1)
      require_error([&] { (void)world.reduce_scatter(x); },
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
    require_error([&] { (void)world.all_reduce(x.to(at::kInt), ReduceOp::mean); }, "mean of whole numbers");
    require_error([&] { (void)world.all_reduce(x.to(at::kFloat8_e4m3fn)); }, "cannot be reduced");
    require_error([&] { (void)world.all_reduce(x.to(at::kFloat8_e5m2)); }, "cannot be reduced");
    require_error([&] { (void)world.all_reduce(at::zeros({2}).requires_grad_()); }, "requires a gradient");
    require_error([&] { (void)world.exchange({{x, world.rank()}}, {}); }, "cannot send to itself");
    world.barrier();  // the group is as good as before
  });
}

}  // namespace communicator_test
