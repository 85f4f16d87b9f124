#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>

#include <string>
#include <vector>

#include "core/hash.hpp"
#include "module/same_values.hpp"

namespace wanpar {

/// Verifies that ranks ran the same pass: the sequence of operators on split tensors, their scalar arguments,
/// and the values of their replicated tensors. Recorded at each operator, compared at the end of the pass.
class Alike {
 public:
  void note_call(const std::string& op) {
    path_ = hashed_with(path_, static_cast<uint64_t>(stable_hash(op)));
  }
  void note_number(const std::string& op, double value) { numbers_.push_back({op, value}); }
  void note_tensor(const std::string& op, const at::Tensor& x) {
    tensors_.push_back({op, x.sizes().vec(), Digest::of(x)});
  }

  /// Collective. Throws Error on all ranks, starting with `who`, if a record differs.
  void compare(const std::string& who, const std::vector<Communicator>& grid) const;

 private:
  struct Number {
    std::string op;
    double value;
  };
  struct NotedTensor {
    std::string op;
    std::vector<int64_t> sizes;
    Digest digest;
  };
  std::vector<Number> numbers_;
  std::vector<NotedTensor> tensors_;
  uint64_t path_ = 0;  // hash of the sequence of operators
};

}  // namespace wanpar
