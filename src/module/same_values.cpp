#include "module/same_values.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <wanpar/core/agreement.hpp>
#include <wanpar/core/error.hpp>
#include <wanpar/module/interceptor.hpp>

#include "module/buckets.hpp"

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

}  // namespace

Digest Digest::of(const at::Tensor& x) {
  if (!is_readable(x)) return {};
  Plain plain;
  at::NoGradGuard no_grad;
  auto real = x.is_complex() ? at::view_as_real(x.detach().resolve_conj()) : x.detach();
  // Infinities and the like, as in masks, would hide all else.
  auto values = at::nan_to_num(real.to(at::kDouble), 3, 1, -1).reshape({-1});
  auto weights = at::arange(values.numel(), values.options()).mul_(0.6180339887498949).frac_().sub_(0.5);
  auto both = at::stack({at::dot(values, weights), at::linalg_vector_norm(values)}).cpu();
  auto* number = both.const_data_ptr<double>();
  return {number[0], number[1], rounding_of(x)};
}

bool Digest::is_close_to(const Digest& other) const {
  const auto allowed = tolerance * std::max(norm, other.norm);
  return std::abs(sum - other.sum) <= allowed && std::abs(norm - other.norm) <= allowed;
}

void require_same_values(const std::string& who, const std::string& what, const Communicator& group,
                         const NamedTensors& tensors, const std::string& advice, const std::string& rest) {
  std::string lines;
  std::vector<double> mine;
  std::vector<Digest> digests;
  for (auto& [name, x] : tensors) {
    lines += x.defined() ? fmt::format("{} {}{}\n", name, c10::toString(x.scalar_type()), x.sizes())
                         : name + " none\n";
    digests.push_back(Digest::of(x));
    mine.insert(mine.end(), {digests.back().sum, digests.back().norm});
  }
  Plain plain;
  try {
    require_same(who, what, {group}, lines + rest);
  } catch (const AgreedError& error) {
    throw AgreedError(fmt::format("{}; {}", error.what(), advice));
  }
  if (mine.empty()) return;
  auto count = static_cast<int64_t>(mine.size());
  auto all = group.all_gather(at::tensor(mine, at::kDouble).to(group.device())).get().cpu();
  auto* number = all.const_data_ptr<double>();
  for (int rank = 1; rank < group.size(); ++rank)
    for (size_t i = 0; i < digests.size(); ++i) {
      auto digest_of = [&](int of) {
        auto* at = number + of * count + 2 * i;
        return Digest{at[0], at[1], digests[i].tolerance};
      };
      if (digest_of(0).is_close_to(digest_of(rank))) continue;
      auto& [name, x] = tensors[i];
      throw AgreedError(fmt::format(
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
