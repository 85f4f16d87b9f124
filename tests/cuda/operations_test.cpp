#include <ATen/ATen.h>
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/types.h>

#include "cuda.hpp"
#include "worlds.hpp"

using wanpar::Communicator;
using wanpar::ReduceOp;

namespace operations_test {
namespace {

const std::vector<at::ScalarType> kMovable{at::kDouble, at::kFloat, at::kHalf, at::kBFloat16,     at::kLong,
                                           at::kInt,    at::kByte,  at::kBool, at::kFloat8_e4m3fn};
const std::vector<at::ScalarType> kReducible{at::kDouble, at::kFloat, at::kHalf, at::kBFloat16,
                                             at::kLong,   at::kInt,   at::kByte, at::kBool};

/// What rank r holds, on the CPU: small whole numbers, exact in every dtype, different on every rank.
at::Tensor values(int rank, std::vector<int64_t> shape, at::ScalarType dtype) {
  auto n = c10::multiply_integers(shape);
  return at::arange(n)
      .add(rank * 3)
      .remainder(dtype == at::kBool ? 2 : 5)
      .view(shape)
      .to(at::kFloat)
      .to(dtype);
}

/// Rank r's extent where extents are uneven; rank 1's is empty.
std::vector<int64_t> uneven(int ranks) {
  std::vector<int64_t> sizes;
  for (int r = 0; r < ranks; ++r) sizes.push_back(r == 1 ? 0 : r + 2);
  return sizes;
}

/// Compares on the CPU, byte by byte, and wants the result on the device.
void require_there(const at::Tensor& actual, const at::Tensor& expected, const std::string& claim) {
  require(actual.device() == kCuda, claim + ": lies on " + actual.device().str());
  require_equal(actual.cpu(), expected, claim);
}

at::Tensor joined(int ranks, int64_t dim, const std::function<at::Tensor(int)>& piece) {
  std::vector<at::Tensor> pieces;
  bool is_float8 = piece(0).scalar_type() == at::kFloat8_e4m3fn;  // which cat does not know
  for (int r = 0; r < ranks; ++r) pieces.push_back(is_float8 ? piece(r).view(at::kByte) : piece(r));
  auto all = at::cat(pieces, dim);
  return is_float8 ? all.view(at::kFloat8_e4m3fn) : all;
}

at::Tensor reduced(int ranks, ReduceOp op, const std::function<at::Tensor(int)>& of) {
  auto wide = [&](int r) { return of(r).to(at::kFloat).to(at::kDouble); };
  auto all = wide(0);
  for (int r = 1; r < ranks; ++r) {
    auto next = wide(r);
    all = op == ReduceOp::product ? all * next
          : op == ReduceOp::min   ? at::minimum(all, next)
          : op == ReduceOp::max   ? at::maximum(all, next)
                                  : all + next;
  }
  if (op == ReduceOp::mean) all = all / ranks;
  return of(0).scalar_type() == at::kBool ? all.ne(0) : all.to(of(0).scalar_type());
}

void on_cuda_worlds(const std::function<void(Communicator)>& claim) { on_worlds(claim, {1, 2, 3}); }

}  // namespace

TEST_CASE("all_reduce of CUDA tensors, in each dtype, by each operation, of any length" *
          doctest::skip(no_cuda())) {
  on_cuda_worlds([](Communicator world) {
    for (auto dtype : kReducible)
      for (int64_t length : {0, 1, 5, 1003})
        for (auto op : {ReduceOp::sum, ReduceOp::product, ReduceOp::min, ReduceOp::max, ReduceOp::mean}) {
          if (dtype == at::kBool && op != ReduceOp::sum) continue;
          if (op == ReduceOp::mean && !at::isFloatingType(dtype)) continue;
          auto of = [&](int r) { return values(r, {length}, dtype); };
          auto claim = fmt::format("{} {}, operation {}", length, c10::toString(dtype), static_cast<int>(op));
          auto actual = world.all_reduce(of(world.rank()).to(kCuda), op).get();
          auto expected = reduced(world.size(), op, of);
          if (op == ReduceOp::mean)
            require_close(actual.cpu(), expected,
                          dtype == at::kBFloat16 ? 2e-2
                          : dtype == at::kHalf   ? 2e-3
                                                 : 1e-6,
                          claim);
          else
            require_there(actual, expected, claim);
        }
  });
}

TEST_CASE("all_gather of CUDA tensors, even, uneven and empty, in each dtype" * doctest::skip(no_cuda())) {
  on_cuda_worlds([](Communicator world) {
    auto sizes = uneven(world.size());
    for (auto dtype : kMovable) {
      auto even = [&](int r) { return values(r, {2, 3, 4}, dtype); };
      auto rough = [&](int r) { return values(r, {2, sizes[r], 4}, dtype); };
      for (int64_t dim : {0, 1, -1})
        require_there(world.all_gather(even(world.rank()).to(kCuda), dim).get(),
                      joined(world.size(), dim, even), "even");
      require_there(world.all_gather(rough(world.rank()).to(kCuda), 1, sizes).get(),
                    joined(world.size(), 1, rough), "uneven");
    }
    auto nothing = at::empty({0, 3}, kCuda);
    require(world.all_gather(nothing).get().numel() == 0, "of nothing");
  });
}

TEST_CASE("reduce_scatter of CUDA tensors, even and uneven, in each dtype" * doctest::skip(no_cuda())) {
  on_cuda_worlds([](Communicator world) {
    auto sizes = uneven(world.size());
    auto total = at::tensor(sizes).sum().item<int64_t>();
    for (auto dtype : kReducible) {
      auto rough = [&](int r) { return values(r, {2, total}, dtype); };
      auto even = [&](int r) { return values(r, {2 * world.size(), 3}, dtype); };
      require_there(world.reduce_scatter(rough(world.rank()).to(kCuda), 1, sizes).get(),
                    reduced(world.size(), ReduceOp::sum, rough).split_with_sizes(sizes, 1)[world.rank()],
                    "uneven");
      require_there(world.reduce_scatter(even(world.rank()).to(kCuda)).get(),
                    reduced(world.size(), ReduceOp::sum, even).narrow(0, 2 * world.rank(), 2), "even");
    }
    auto even = [&](int r) { return values(r, {2 * world.size(), 3}, at::kDouble); };
    require_close(world.reduce_scatter(even(world.rank()).to(kCuda), 0, {}, ReduceOp::mean).get().cpu(),
                  reduced(world.size(), ReduceOp::mean, even).narrow(0, 2 * world.rank(), 2), 1e-12, "mean");
  });
}

TEST_CASE("all_to_all of CUDA tensors trades tokens for heads and back, even and uneven" *
          doctest::skip(no_cuda())) {
  on_cuda_worlds([](Communicator world) {
    auto tokens = uneven(world.size()), heads = wanpar::even_sizes(5, world.size());
    for (auto dtype : kMovable) {
      auto shard = [&](int r) { return values(r, {tokens[r], 5, 2}, dtype); };
      auto begin = at::tensor(heads).narrow(0, 0, world.rank()).sum().item<int64_t>();
      auto traded = world.all_to_all(shard(world.rank()).to(kCuda), 1, 0, heads, tokens).get();
      require_there(traded, joined(world.size(), 0, shard).narrow(1, begin, heads[world.rank()]), "to heads");
      require_there(world.all_to_all(traded, 0, 1, tokens, heads).get(), shard(world.rank()), "and back");
    }
    auto square = [&](int r) { return values(r, {3, 2 * world.size()}, at::kInt); };
    require_there(world.all_to_all(square(world.rank()).to(kCuda), 1, 0).get(),
                  joined(world.size(), 0, square).narrow(1, 2 * world.rank(), 2), "even");
  });
}

TEST_CASE("all_to_all_packed of CUDA tensors, some pairs trading nothing" * doctest::skip(no_cuda())) {
  on_cuda_worlds([](Communicator world) {
    for (int most : {4, 1}) {  // with 1 nobody sends anything
      auto count = [&](int from, int to) { return int64_t{(from + 2 * to) % most}; };
      std::vector<int64_t> send, receive;
      std::vector<at::Tensor> out, expected;
      for (int r = 0; r < world.size(); ++r) {
        send.push_back(count(world.rank(), r)), receive.push_back(count(r, world.rank()));
        out.push_back(at::full({send.back()}, 10.0 * world.rank() + r));
        expected.push_back(at::full({receive.back()}, 10.0 * r + world.rank()));
      }
      require_there(world.all_to_all_packed(at::cat(out).to(kCuda), send, receive).get(), at::cat(expected),
                    "packed");
    }
  });
}

TEST_CASE("broadcast, exchange and barrier of CUDA tensors" * doctest::skip(no_cuda())) {
  on_cuda_worlds([](Communicator world) {
    int next = (world.rank() + 1) % world.size(), previous = (world.rank() + world.size() - 1) % world.size();
    for (auto dtype : kMovable) {
      for (int root : {0, world.size() - 1})
        require_there(world.broadcast(values(world.rank(), {4, 3}, dtype).to(kCuda), root).get(),
                      values(root, {4, 3}, dtype), "broadcast");
      if (world.size() == 1) continue;
      auto options = at::TensorOptions(dtype).device(kCuda);
      std::vector<wanpar::Send> sends{{values(world.rank(), {3}, dtype).to(kCuda), next},
                                      {values(world.rank(), {0, 2}, dtype).to(kCuda), next},
                                      {values(world.rank() + 1, {2, 2}, dtype).to(kCuda), next}};
      std::vector<wanpar::Receive> receives{
          {{3}, options, previous}, {{0, 2}, options, previous}, {{2, 2}, options, previous}};
      auto came = world.exchange(sends, receives).get();
      require_there(came[0], values(previous, {3}, dtype), "first");
      require_there(came[2], values(previous + 1, {2, 2}, dtype), "third");
    }
    if (world.size() > 1) (void)world.exchange({}, {}).get();
    world.barrier();
  });
}

TEST_CASE("groups split from one that moves CUDA tensors" * doctest::skip(no_cuda())) {
  on_cuda_worlds([](Communicator world) {
    auto half = world.split(world.rank() % 2, -world.rank());  // ordered by falling rank
    std::vector<int64_t> expected;
    for (int r = world.size() - 1; r >= 0; --r)
      if (r % 2 == world.rank() % 2) expected.push_back(r);
    auto mine = at::tensor({int64_t{world.rank()}}).to(kCuda);
    require_there(half.all_gather(mine).get(), at::tensor(expected), "members in order");
    if (world.size() < 2 || world.rank() > 1) return;
    std::vector<int> pair{1, 0};
    auto group = world.subgroup(pair);
    require_there(group.all_gather(mine).get(), at::tensor({int64_t{1}, int64_t{0}}), "a pair");
    require_there(group.all_reduce(mine).get(), at::tensor({int64_t{1}}), "their sum");
  });
}

TEST_CASE("what moves is what the kernels before the call made, and what comes after it is not seen" *
          doctest::skip(no_cuda())) {
  on_cuda_worlds([](Communicator world) {
    if (world.size() == 1) return;  // there the result is the tensor that was given
    auto n = world.size();
    auto slow = at::full({1500, 1500}, 1.0 / 1500, at::TensorOptions(at::kFloat).device(kCuda));
    for (int i = 0; i < 20; ++i) {
      auto one = at::matmul(at::matmul(slow, slow), slow).sum() / 1500;  // 1, late
      auto x = one * (world.rank() + 1) + at::zeros({100'000}, kCuda);
      auto gathered = world.all_gather(x), sum = world.all_reduce(x), root = world.broadcast(x, n - 1);
      { auto dropped = world.all_reduce(x * 2); }
      x.fill_(-1);
      auto pieces = gathered.get().view({n, -1}).mean(1).cpu();
      require_close(pieces, at::arange(1, n + 1), 1e-3, "gathered");
      require_close(sum.get().mean().cpu(), at::scalar_tensor(n * (n + 1) / 2.0), 1e-3, "sum");
      require_close(root.get().mean().cpu(), at::scalar_tensor(1.0 * n), 1e-3, "the root's");
    }
  });
}

}  // namespace operations_test
