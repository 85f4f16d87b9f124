// Matrix products: sharded rows, columns, batch, or contracted dimension.
#include <ATen/ATen.h>

#include "module/split/rules.hpp"

namespace wanpar {
namespace {

/// A product […, rows, inner] · […, inner, columns] of arguments with known placements.
struct Product {
  size_t left, right;
  int64_t dims;

  int64_t rows() const { return dims - 2; }
  int64_t last() const { return dims - 1; }
};

/// The placement of the result; nullopt if it is a partial sum.
struct Carried {
  std::optional<SplitPlacement> place;
};

/// Sets both local arguments; nullopt if the product cannot be sharded.
std::optional<Carried> carried(SplitCall& call, const Product& p) {
  auto *left = call.place(p.left), *right = call.place(p.right);
  for (auto* batch : {left, right})
    if (batch && batch->dim < p.rows()) {
      const auto place = *batch;
      call.give_part(p.left, place);
      call.give_part(p.right, place);
      return Carried{place};
    }
  if (left && left->dim == p.rows()) {
    const auto place = *left;
    call.give_own_part(p.left);
    call.give_full(p.right);
    return Carried{place};
  }
  if (right && right->dim == p.last() && !left) {
    const auto place = *right;
    call.give_own_part(p.right);
    call.give_full(p.left);
    return Carried{place};
  }
  const auto inner = left ? *left : right->at(p.last());
  call.give_part(p.left, inner.at(p.last()));
  call.give_part(p.right, inner.at(p.rows()));
  return Carried{};
}

bool product(SplitCall& call, int64_t dims) {
  const auto result = carried(call, {0, 1, dims});
  if (!result) return false;
  return call.run({result->place ? OutputPlacement{OutputPlacement::sharded, result->place}
                                 : OutputPlacement{OutputPlacement::partial_sum}});
}
bool product_of_matrices(SplitCall& call) { return product(call, 2); }
bool product_of_batches(SplitCall& call) { return product(call, 3); }

/// bias + a b, where the bias broadcasts to the product.
bool product_added(SplitCall& call, int64_t dims) {
  auto& bias = call.tensor(0);
  if (!call.facts().written.empty() || (!call.place(1) && !call.place(2))) return false;
  const auto result = carried(call, {1, 2, dims});
  if (!result || !result->place) return false;
  if (!call.give_broadcast(0, result->place->at(result->place->dim - (dims - bias.dim())))) return false;
  return call.run({{OutputPlacement::sharded, result->place}});
}
bool product_added_to_matrix(SplitCall& call) { return product_added(call, 2); }
bool product_added_to_batch(SplitCall& call) { return product_added(call, 3); }

/// Matrix times vector.
bool product_with_vector(SplitCall& call) {
  auto *matrix = call.place(0), *vector = call.place(1);
  if (matrix && matrix->dim == 0) {
    const auto place = *matrix;
    call.give_own_part(0);
    call.give_full(1);
    return call.run({{OutputPlacement::sharded, place}});
  }
  const auto place = matrix ? *matrix : vector->at(1);
  call.give_part(0, place);
  call.give_part(1, place.at(0));
  return call.run({{OutputPlacement::partial_sum}});
}

bool product_of_vectors(SplitCall& call) {
  const auto place = *call.place(*call.first_split());
  call.give_part(0, place);
  call.give_part(1, place);
  return call.run({{OutputPlacement::partial_sum}});
}

/// Each row of the result depends on a row of the first operand and on all of the second.
bool distances(SplitCall& call) {
  auto* place = call.place(0);
  auto &x = call.tensor(0), &other = call.tensor(1);
  if (!place || place->dim != x.dim() - 2 || other.dim() > x.dim()) return false;
  const auto rows = *place;
  call.give_own_part(0);
  call.give_full(1);
  return call.run({{OutputPlacement::sharded, rows}});
}

}  // namespace

const SplitRules& rules_of_products() {
  static const SplitRules rules = {
      {"mm", product_of_matrices},         {"bmm", product_of_batches},   {"addmm", product_added_to_matrix},
      {"baddbmm", product_added_to_batch}, {"mv", product_with_vector},   {"dot", product_of_vectors},
      {"vdot", product_of_vectors},        {"_cdist_forward", distances},
  };
  return rules;
}

}  // namespace wanpar
