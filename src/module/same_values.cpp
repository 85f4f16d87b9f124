#include "module/same_values.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/interceptor.hpp>

#include "module/buckets.hpp"
#include "module/shard_tensor.hpp"
#include "module/split/split_tensor.hpp"

namespace wanpar {
namespace {

double rounding_of(const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat:
    case at::kComplexFloat:
      return 1e-5;
    case at::kDouble:
    case at::kComplexDouble:
      return 1e-10;
    default:
      return x.is_floating_point() ? 1e-2 : 1e-12;
  }
}

bool is_readable(const at::Tensor& x) {
  return x.defined() && x.layout() == at::kStrided && !x.is_meta() && !x.is_quantized() && x.numel() > 0 &&
         x.storage().nbytes() > 0;
}

/// A pseudo-random weight in [0, 1) for each index.
double weight_of(int64_t place) {
  const auto turns = static_cast<double>(place) * 0.6180339887498949;
  return turns - std::floor(turns);
}

at::Tensor weights_of(int64_t places, const at::TensorOptions& options) {
  return at::arange(places, options.dtype(at::kDouble)).mul_(0.6180339887498949).frac_().to(options);
}

/// Whether two digests are equal up to `tolerance`.
bool are_close(const double* one, const double* other, double tolerance) {
  const auto allowed = tolerance * std::max(one[1], other[1]);
  return std::abs(one[0] - other[0]) <= allowed && std::abs(one[1] - other[1]) <= allowed;
}

}  // namespace

Digest Digest::of(const at::Tensor& given) {
  NoInterceptGuard no_intercept;
  at::NoGradGuard no_grad;
  auto* split = as_split(given);
  const auto x = split ? split->part() : local_of(given);
  if (!is_readable(x)) return {at::zeros({2}, at::kDouble)};
  auto flat = (x.is_complex() ? at::view_as_real(x.detach().resolve_conj()) : x.detach()).reshape({-1});
  // For values in float32 or less, float32 is precise enough, in a fifth of the time.
  const bool is_wide = flat.scalar_type() == at::kDouble || !flat.is_floating_point();
  const auto options = x.options().dtype(is_wide ? at::kDouble : at::kFloat);
  auto numbers = at::zeros({2}, options.dtype(at::kDouble));
  constexpr int64_t kAtOnce = int64_t{1} << 21;  // beside the tensor, this takes 50 MB at most
  const auto weights = weights_of(std::min(kAtOnce, flat.numel()), options).sub_(0.5);
  for (int64_t begin = 0; begin < flat.numel(); begin += kAtOnce) {
    auto part = flat.narrow(0, begin, std::min(kAtOnce, flat.numel() - begin)).to(options.dtype());
    part = at::nan_to_num(part, 3, 1, -1);
    auto values = part.abs().log1p_().copysign_(part);
    auto weighted = at::dot(values, weights.narrow(0, 0, values.numel()));
    numbers += at::stack({weighted * (1 + weight_of(begin / kAtOnce)), at::dot(values, values)});
  }
  numbers[1].sqrt_();
  return {numbers, rounding_of(x)};
}

bool Digest::is_close_to(const Digest& other) const {
  auto both = at::stack({numbers, other.numbers}).cpu();
  auto* number = both.const_data_ptr<double>();
  return are_close(number, number + 2, tolerance);
}

at::Tensor numbers_of_all(const std::vector<Communicator>& groups, const at::Tensor& mine) {
  auto all = mine.unsqueeze(0);
  for (auto& group : groups)
    if (group.size() > 1) all = group.all_gather(all.to(group.device()), 0).get();
  return all.cpu();
}

void require_same_values(const std::string& who, const std::string& what,
                         const std::vector<Communicator>& groups, const NamedTensors& tensors,
                         const std::string& advice, const std::string& rest) {
  NoInterceptGuard no_intercept;
  std::string lines;
  Tensors mine;
  std::vector<double> tolerances;
  for (auto& [name, x] : tensors) {
    lines += x.defined() ? fmt::format("{} {}{}\n", name, c10::toString(x.scalar_type()), x.sizes())
                         : name + " none\n";
    auto digest = Digest::of(x);
    mine.push_back(digest.numbers.to(groups[0].device()));
    tolerances.push_back(digest.tolerance);
  }
  require_same(who, what, groups, lines + rest, advice);
  if (mine.empty()) return;
  const auto all = numbers_of_all(groups, at::stack(mine));
  for (int64_t rank = 1; rank < all.size(0); ++rank)
    for (size_t i = 0; i < tensors.size(); ++i) {
      const auto at = static_cast<int64_t>(i);
      if (Digest{all[0][at], tolerances[i]}.is_close_to({all[rank][at], tolerances[i]})) continue;
      auto& [name, x] = tensors[i];
      throw AgreedMismatchError(fmt::format(
          "{}: the ranks have different {}: {} {}{} has other values on rank {} than on rank 0; {}", who,
          what, name, c10::toString(x.scalar_type()), x.sizes(), rank, advice));
    }
}

void broadcast_values(const Communicator& group, const NamedTensors& tensors, int64_t bucket_bytes,
                      const Write& write) {
  at::NoGradGuard no_grad;
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  for (auto& bucket : cut_into_buckets(tensors, order, bucket_bytes)) {
    std::vector<at::Tensor> pieces;
    for (auto index : bucket) pieces.push_back(tensors[index].tensor.detach().reshape({-1}));
    auto own = at::cat(pieces);
    auto bytes = own.view(at::kByte);  // any dtype, complex ones too
    auto values = group.broadcast(bytes).get();
    if (group.rank() == 0 || bytes.equal(values)) continue;
    values = values.view(own.scalar_type());
    int64_t at = 0;
    for (size_t i = 0; i < bucket.size(); ++i) {
      auto tensor = tensors[bucket[i]].tensor;
      auto theirs = values.narrow(0, at, tensor.numel());
      at += tensor.numel();
      if (pieces[i].view(at::kByte).equal(theirs.view(at::kByte))) continue;
      if (write)
        write(bucket[i], theirs.view(tensor.sizes()));
      else
        tensor.copy_(theirs.view(tensor.sizes()));
    }
  }
}

}  // namespace wanpar
