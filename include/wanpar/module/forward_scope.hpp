#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>
#include <wanpar/module/parameters.hpp>
#include <wanpar/module/value_name.hpp>
#include <wanpar/module/values.hpp>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace wanpar {

/// What a wrapped module is called with, flat: all tensors, those that were left out undefined, each by its
/// name.
struct Arguments {
  NamedTensors tensors;
  int64_t count = 0;               ///< of the arguments that hold them
  std::vector<std::string> plain;  ///< names of the values that hold none
  std::string signature;  ///< shapes and dtypes of the tensors, values of all else, the mode of the module
  std::string kinds;      ///< the same without the values of numbers
};

/// One call of a wrapped module on one rank, from a strategy's side. It ends with its life.
class ForwardScope {
 public:
  virtual ~ForwardScope() = default;
  /// Puts what the module is to be given in the place of what the wrapper was given.
  virtual void enter(Arguments&) {}
  /// Puts what the caller is to have in the place of the tensors of the result.
  virtual void leave(NamedTensors& /*results*/) {}
  /// The call has failed on this rank, wherever.
  virtual void fail() {}
  /// What to say beside an error of LibTorch's that the module ended in; empty where there is nothing.
  virtual std::string remark(std::string_view /*error*/) const { return {}; }
};

/// Throws Error, which begins with `strategy` and names the `option`, where a name in it names nothing among
/// the arguments.
void check_names(const std::string& strategy, const std::string& option, const ValueNames& names,
                 const Arguments& arguments);

namespace detail {

/// The tensors of a value, by their paths.
class Collector : public ValueVisitor {
 public:
  void tensor(at::Tensor& x) override;
  void none() override;
  void plain(std::string_view text) override;

  NamedTensors tensors;
  std::vector<std::string> plain_names;  // of the values that hold no tensor
  std::string numbers;                   // those values, and how many tensors there are
  std::string signature, kinds;
};

/// Puts tensors back where a Collector has found others.
class Replacer : public ValueVisitor {
 public:
  explicit Replacer(NamedTensors& tensors) : tensors_(tensors) {}
  void tensor(at::Tensor& x) override { x = std::move(tensors_[next_++].tensor); }
  void none() override { ++next_; }

 private:
  NamedTensors& tensors_;
  size_t next_ = 0;
};

/// A call of a wrapped module, in which other ranks may wait for this one: where it fails they are told.
class Forward {
 public:
  explicit Forward(const std::vector<Communicator>& groups);

  void begin(std::unique_ptr<ForwardScope> scope, Arguments& arguments);
  void end(NamedTensors& results);
  /// In a catch block: tells the other ranks, and throws on what a strategy threw.
  [[noreturn]] void fail();

 private:
  struct Waiting {
    Communicator group;
    uint64_t failures;  // of this rank that it knew of before
    std::shared_ptr<void> at_hand;
  };
  std::vector<Waiting> waiting_;
  std::unique_ptr<ForwardScope> scope_;
};

}  // namespace detail
}  // namespace wanpar
