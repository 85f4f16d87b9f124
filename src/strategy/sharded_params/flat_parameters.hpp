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

/// A parameter of the module, with all its names.
struct Leaf {
  at::Tensor tensor;
  std::vector<std::string> names;
  int64_t offset;              ///< in its item
  int64_t gradient_begin = 0;  ///< in the flat gradient
  size_t shard = 0;            ///< index of the shard that it belongs to
  bool was_trained = false;    ///< requires_grad when last checked
};

/// Parameters that share a piece of memory; nearly always a single one, which fills it.
struct Item {
  std::vector<Leaf> leaves;
  at::Tensor values;   ///< flat, as constructed; undefined if it was deferred
  int64_t begin = 0;   ///< in the flat parameter
  bool moves = false;  ///< its storage holds more than this item: it must get its own
  int unit = 0;

  int64_t size = 0;
};

/// Groups the module's parameters by memory: tied parameters form one item; a storage of several separate
/// parameters gives several items.
std::vector<Item> items_of(const NamedTensors& parameters, const Units& units);

/// What an optimizer steps: this rank's shard of a parameter, a flat view of the flat parameter; the
/// parameter itself if it is unsharded.
struct Shard {
  std::vector<std::string> names;
  at::Tensor tensor;
  std::shared_ptr<const ShardMetadata> metadata = {};  ///< null: unsharded
};

/// A flat parameter (cf. FSDP): the concatenated items of one unit and dtype, of which this rank holds a
/// shard. If it is unsharded, and the dtype of computation is the module's, the module's own memory is used.
class FlatParameters {
 public:
  struct Options {
    Communicator group;               ///< the ranks it is sharded over
    std::vector<Communicator> alike;  ///< replicas: ranks that hold the same shard
    at::ScalarType compute;           ///< the dtype of computation
    std::optional<at::ScalarType> reduce;
    bool take_from_rank_0;
  };

  /// Collective if values are taken from rank 0. Moves items to storages of their own where required.
  FlatParameters(std::vector<Item> items, Options options);

  /// Which bytes of the unsharded flat parameter each storage of the module is a view of.
  std::vector<StorageSlice> storages(size_t buffer) const;

  Pending<at::Tensor> gather() const;
  /// Collective. Calls `show` with each unsharded leaf, in the shard's dtype.
  void each_value(const std::function<void(const Leaf& leaf, const at::Tensor& value)>& show) const;
  /// Copies what was written to a gathered buffer back to this rank's shard.
  void write_back(const at::Tensor& gathered);
  /// Whether this rank has all elements, in the dtype of computation: no gather is needed.
  bool is_unsharded() const;
  /// A version that changes whenever an operator writes to the shards.
  int64_t version() const;

  /// Synchronises requires_grad between parameters and shards, if it has been changed on either.
  void agree_on_training();
  bool is_trained() const;

  bool has_gradients() const;
  /// Moves the gradients out of the leaves; undefined for leaves without one.
  std::vector<at::Tensor> take_gradients();
  /// Sets the gradients of the leaves; undefined beyond the end of the list.
  void put_gradients(std::vector<at::Tensor> gradients);
  /// Starts a reduce-scatter (average) of the sum of lists of gradients.
  Pending<at::Tensor> reduce(const std::vector<std::vector<at::Tensor>>& lists) const;
  /// Accumulates this rank's part of averaged gradients into the shards that had one on any rank.
  void accumulate(const at::Tensor& mean, const std::vector<bool>& had);
  /// Gives the leaves placeholders for the gradients of the shards, so that zero_grad() on a leaf resets its
  /// shard's.
  void stand_in_for_gradients();
  /// Removes the placeholders.
  void drop_stand_ins();

  /// Sets elements of an item, from index `from` on, in this rank's shard.
  void set(const Item& item, const at::Tensor& values, int64_t from);
  /// The elements of an item in this rank's shard: first index, count.
  std::pair<int64_t, int64_t> own(const Item& item) const;

  const std::vector<Item>& items() const { return items_; }
  std::vector<Shard>& shards() { return shards_; }
  const std::vector<Shard>& shards() const { return shards_; }
  size_t leaves() const;
  /// Calls action(index, leaf) for every leaf, in order.
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
  int64_t gradient_size_ = 0;  // in elements
  at::Tensor flat_;            // this rank's shard; undefined if unsharded
  std::vector<Shard> shards_;
};

/// The view of a flat parameter with the geometry of a leaf; expanded dimensions have size 1.
at::Tensor elements_of(const at::Tensor& flat, int64_t begin, const at::Tensor& leaf);

}  // namespace wanpar
