#pragma once
#include <ATen/core/Tensor.h>

#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace wan {

/// What a pickled state dict is made of.
namespace pickled {

struct Value;
struct None {};
struct Global {
  std::string name;  // "module name"
};
/// A storage of the archive: so many elements under that key.
struct Storage {
  std::string key;
  at::ScalarType dtype;
  int64_t elements;
};
struct Tuple {
  std::vector<const Value*> items;
};
struct Dict {
  std::vector<std::pair<const Value*, const Value*>> items;
};
/// A view of a storage; `offset` and `strides` count elements.
struct Tensor {
  Storage storage;
  int64_t offset;
  std::vector<int64_t> sizes;
  std::vector<int64_t> strides;
};
struct Value {
  std::variant<None, bool, int64_t, std::string, Global, Storage, Tuple, Dict, Tensor> content;
};

}  // namespace pickled

/// Reads the subset of pickle protocol 2 that a state dict needs. Values live as long as the Unpickler.
class Unpickler {
 public:
  explicit Unpickler(std::string_view program) : program_(program) {}

  /// The value that the program leaves behind. Throws Error for opcodes and globals outside the subset.
  const pickled::Value& run();

 private:
  using Value = pickled::Value;

  void step(unsigned char opcode);
  void push(Value value);
  Value* pop();
  std::vector<const Value*> pop_to_mark();
  void push_tuple(size_t size);
  void set_items(const std::vector<const Value*>& items);
  void persistent_load();
  void reduce();
  void build();
  void push_global();
  void push_long();

  template <class T>
  T number();
  std::string_view take(size_t size);
  std::string_view line();

  std::string_view program_;
  size_t position_ = 0;
  std::deque<Value> values_;  // flat: however deep the values nest, they are destroyed without recursion
  std::vector<Value*> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint32_t, Value*> memo_;
};

}  // namespace wan
