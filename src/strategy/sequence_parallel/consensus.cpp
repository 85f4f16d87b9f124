#include "strategy/sequence_parallel/consensus.hpp"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <wanpar/core/error.hpp>

#include "core/hash.hpp"

namespace wanpar {
namespace {

/// Ranks may round differently what they all compute; what one made of its own tokens differs by more.
double tolerance_of(const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat:
    case at::kComplexFloat:
      return 1e-5;
    case at::kDouble:
    case at::kComplexDouble:
      return 1e-9;
    default:
      return x.is_floating_point() ? 1e-2 : 0;
  }
}

/// The sum of all values and of their absolute values, by which tensors of other values are told apart.
std::pair<double, double> sums_of(const at::Tensor& x) {
  auto real = x.is_complex() ? at::view_as_real(x.detach().resolve_conj()) : x.detach();
  // Infinities and the like stand in masks, where they would hide all else.
  auto wide = at::nan_to_num(real.to(at::kDouble), 1e30).clamp(-1e30, 1e30);
  return {wide.sum().item<double>(), wide.abs().sum().item<double>()};
}

bool has_values(const at::Tensor& x) {
  return x.layout() == at::kStrided && !x.is_meta() && x.numel() > 0 && x.storage().nbytes() > 0 &&
         !x.is_quantized();
}

}  // namespace

std::string differs_by_rank(const std::string& what, const std::vector<double>& values) {
  auto other = std::find_if(values.begin(), values.end(), [&](double x) { return x != values[0]; });
  return fmt::format(
      "SequenceParallel: {}, which is {:.6g} on rank 0 and {:.6g} on rank {}: the module made it of the "
      "tokens "
      "that a rank holds; make it before the wrapped module is called, and give it as an argument",
      what, values[0], *other, other - values.begin());
}

void Consensus::called(uint64_t operator_hash) {
  fingerprint_ = static_cast<int64_t>(hashed_with(fingerprint_, operator_hash));
}

void Consensus::note(const Operator& op, const Number& number, bool may_be_extent) {
  auto& argument = op.handle.schema().arguments()[number.argument].name();
  fingerprint_ = static_cast<int64_t>(hashed_with(fingerprint_, number.argument + 1));
  entries_.push_back({fmt::format("{} is given a number '{}'", op.name, argument),
                      may_be_extent ? Kind::extent : Kind::number});
  values_.push_back(number.value);
}

void Consensus::note(const std::string& name, const at::Tensor& x) {
  note_values(fmt::format("{} meets a tensor that is not split, the sum of whose values", name), x);
}

void Consensus::note_result(const at::Tensor& x) {
  note_values("a result of the module is not split, the sum of whose values", x);
}

void Consensus::note_values(const std::string& name, const at::Tensor& x) {
  fingerprint_ = static_cast<int64_t>(hashed_with(fingerprint_, has_values(x) ? x.dim() + 1 : 0));
  if (!has_values(x)) return;
  auto [sum, absolute] = sums_of(x);
  entries_.push_back({name, Kind::sum, tolerance_of(x)});
  values_.insert(values_.end(), {sum, absolute});
}

void Consensus::compare(const Gather& gather, const std::vector<std::vector<double>>& lengths) {
  const auto entries = std::exchange(entries_, {});
  const auto mine = std::exchange(values_, {});
  fingerprint_ = 0;
  if (entries.empty()) return;
  const auto rows = gather(mine);
  auto column = [&](size_t i) {
    std::vector<double> values;
    for (auto& row : rows) values.push_back(row[i]);
    return values;
  };
  size_t at = 0;
  for (auto& entry : entries) {
    const auto values = column(at++);
    if (entry.kind == Kind::sum) {
      const auto absolute = column(at++);
      const auto allowed = 2 * entry.tolerance * absolute[0];
      for (size_t r = 0; r < rows.size(); ++r)
        if (!(std::abs(values[r] - values[0]) <= allowed && std::abs(absolute[r] - absolute[0]) <= allowed))
          throw Error(differs_by_rank(entry.name, values));
      continue;
    }
    auto extent = extent_of(values, lengths);
    if (!extent || !(extent->is_constant() || entry.kind == Kind::extent))
      throw Error(differs_by_rank(entry.name, values));
  }
}

}  // namespace wanpar
