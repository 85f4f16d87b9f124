#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/extend/module/forward_scope.hpp>
#include <wanpar/module/values.hpp>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace wanpar {
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
  size_t outer_handlers_;  // of this thread, around this call
  std::unique_ptr<ForwardScope> scope_;
};

}  // namespace detail

}  // namespace wanpar
