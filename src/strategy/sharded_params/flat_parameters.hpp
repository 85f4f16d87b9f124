#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "module/residency.hpp"
#include "strategy/sharded_params/units.hpp"

namespace wanpar {

/// A parameter of the module, under every name that it has there.
struct Leaf {
  at::Tensor tensor;
  std::vector<std::string> names;
  int64_t offset;  ///< from the beginning of its item
};

/// Parameters that share memory; nearly always one, which fills it.
struct Item {
  std::vector<Leaf> leaves;
  at::Tensor values;   ///< flat, as the module came; undefined where it was constructed without values
  int64_t begin = 0;   ///< in the flat parameter
  bool moves = false;  ///< its storage holds more than it: it is to have one of its own
  int unit = 0;

  int64_t size = 0;
};

/// The module's parameters as pieces of memory: tied ones once, a storage of several parameters in several.
std::vector<Item> items_of(const NamedTensors& parameters, const Units& units);

/// Items of one unit and dtype, one behind the other, and the part of them that this rank holds.
class FlatParameters {
 public:
  struct Options {
    Communicator group;               ///< who shares them
    std::vector<Communicator> alike;  ///< who holds the same shard
    at::ScalarType compute;           ///< the dtype that the module sees
    std::optional<at::ScalarType> reduce;
    bool take_from_rank_0;
  };

  /// Collective where values are taken from rank 0. Gives the items storages of their own where they must.
  FlatParameters(std::vector<Item> items, Options options);

  /// Where each storage of the module finds its bytes once the flat parameter is whole.
  std::vector<StoragePlace> places(size_t buffer) const;

  Pending<at::Tensor> gather() const;
  /// Whole, in the shard's dtype.
  at::Tensor gather_values() const;
  /// Whether the shard is all, and is what the module sees.
  bool is_whole() const;

  bool has_gradients() const;
  /// The gradient of each leaf, undefined where it has none; the leaves have none afterwards.
  std::vector<at::Tensor> take_gradients();
  /// In place of those that the leaves have; none for leaves that the list does not reach.
  void put_gradients(std::vector<at::Tensor> gradients);
  /// Begins to average the sum of lists of gradients over the group.
  Pending<at::Tensor> reduce(const std::vector<std::vector<at::Tensor>>& lists) const;
  /// Adds this rank's part of an averaged gradient to the shard's.
  void accumulate(at::Tensor gradient);

  /// This rank's part of the values of an item, from its first element on.
  void set(const Item& item, const at::Tensor& values, int64_t from);
  /// The elements of an item that this rank holds: from, count.
  std::pair<int64_t, int64_t> own(const Item& item) const;
  /// Their gradient; undefined where the shard has none.
  at::Tensor own_gradient(const Item& item) const;

  const std::vector<Item>& items() const { return items_; }
  const at::Tensor& shard() const { return shard_; }
  bool is_trained() const { return shard_.requires_grad(); }

 private:
  at::Tensor piece(int rank) const;
  int64_t begin_of_shard() const;
  /// Every leaf, in order, with its number and where it begins.
  void each_leaf(
      const std::function<void(size_t index, const at::Tensor& leaf, int64_t begin)>& action) const;

  std::vector<Item> items_;
  Options options_;
  std::vector<int64_t> sizes_;
  at::Tensor shard_;
};

/// The elements of a flat parameter that a leaf of an item names; dimensions that were expanded have size 1.
at::Tensor elements_of(const at::Tensor& flat, int64_t begin, const at::Tensor& leaf);

}  // namespace wanpar
