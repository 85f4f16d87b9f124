#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>

#include <functional>
#include <memory>
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
  int64_t offset;              ///< from the beginning of its item
  int64_t gradient_begin = 0;  ///< in the flat gradient
  size_t shard = 0;            ///< which of the shards it is stepped by
  bool was_trained = false;    ///< when that was last looked at
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

/// What an optimizer steps: this rank's elements of a parameter, flat, as a view of the flat memory; the
/// parameter itself where this rank has all of it.
struct Shard {
  std::vector<std::string> names;
  at::Tensor tensor;
  std::shared_ptr<const ShardMetadata> metadata = {};  ///< null: all of it
};

/// Items of one unit and dtype, one behind the other, and the part of them that this rank holds. Where that
/// is all, in the dtype that the module computes in, the module's own memory stays as it is.
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
  std::vector<StorageSlice> storages(size_t buffer) const;

  Pending<at::Tensor> gather() const;
  /// Collective. Each leaf whole, in the shard's dtype.
  void each_value(const std::function<void(const Leaf& leaf, const at::Tensor& value)>& show) const;
  /// Keeps what was written to a gathered buffer, in this rank's part.
  void write_back(const at::Tensor& gathered);
  /// Whether this rank has all, and it is what the module sees.
  bool is_unsharded() const;
  /// Another number whenever an operator has written to the shards.
  int64_t version() const;

  /// What was frozen, or trained, by requires_grad_() on parameters or shards since, is so for both.
  void agree_on_training();
  bool is_trained() const;

  bool has_gradients() const;
  /// The gradient of each leaf, undefined where it has none; the leaves have none afterwards.
  std::vector<at::Tensor> take_gradients();
  /// In place of those that the leaves have; none for leaves that the list does not reach.
  void put_gradients(std::vector<at::Tensor> gradients);
  /// Begins to average the sum of lists of gradients over the group.
  Pending<at::Tensor> reduce(const std::vector<std::vector<at::Tensor>>& lists) const;
  /// Adds this rank's part of averaged gradients to those of the shards that had one on any rank.
  void accumulate(const at::Tensor& mean, const std::vector<bool>& had);
  /// The leaves have something in the place of gradients that the shards hold: who drops that, drops those.
  void stand_in_for_gradients();
  /// And have it no more.
  void drop_stand_ins();

  /// This rank's part of the values of an item, from its first element on.
  void set(const Item& item, const at::Tensor& values, int64_t from);
  /// The elements of an item that this rank holds: from, count.
  std::pair<int64_t, int64_t> own(const Item& item) const;

  const std::vector<Item>& items() const { return items_; }
  std::vector<Shard>& shards() { return shards_; }
  const std::vector<Shard>& shards() const { return shards_; }
  size_t leaves() const;
  /// Every leaf, in order, with its number.
  template <class Action>
  void each_leaf(const Action& action) const {
    size_t index = 0;
    for (auto& item : items_)
      for (auto& leaf : item.leaves) action(index++, leaf);
  }
  at::TensorOptions options() const;
  int64_t bytes() const;

 private:
  at::Tensor piece(int rank) const;
  at::Tensor from_rank_0() const;
  void keep_memory();
  void share_memory();
  int64_t begin_of_shard() const;
  at::Tensor gradient_slice(const at::Tensor& flat, const Leaf& leaf) const;

  std::vector<Item> items_;
  Options options_;
  at::ScalarType dtype_;
  std::vector<int64_t> sizes_;
  int64_t gradient_size_ = 0;  // of the flat gradient
  at::Tensor flat_;            // undefined where this rank has all
  std::vector<Shard> shards_;
};

/// The elements of a flat parameter that a leaf of an item names; dimensions that were expanded have size 1.
at::Tensor elements_of(const at::Tensor& flat, int64_t begin, const at::Tensor& leaf);

}  // namespace wanpar
