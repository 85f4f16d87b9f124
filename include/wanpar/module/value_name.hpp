#pragma once
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

namespace wanpar {

/// Names values among a call's arguments or in its result: 0 is the first argument, "2.mask" the entry `mask`
/// of the third, "1.0" the first element of the second. The name of a list, map or struct covers all tensors
/// in it; the empty name covers everything.
class ValueName {
 public:
  ValueName() = default;
  ValueName(int position) : text_(std::to_string(position)) {}
  ValueName(int64_t position) : text_(std::to_string(position)) {}
  ValueName(size_t position) : text_(std::to_string(position)) {}
  ValueName(std::string text) : text_(std::move(text)) {}
  ValueName(const char* text) : text_(text) {}

  const std::string& text() const { return text_; }
  /// Whether this name covers the value at `path`.
  bool names(const std::string& path) const {
    return text_.empty() ||
           (path.starts_with(text_) && (path.size() == text_.size() || path[text_.size()] == '.'));
  }

 private:
  std::string text_;
};

/// A list of names: `.batch = {0, "2.mask"}`.
class ValueNames {
 public:
  ValueNames() = default;
  ValueNames(std::initializer_list<ValueName> names) : names_(names) {}
  ValueNames(const std::vector<int64_t>& positions) : names_(positions.begin(), positions.end()) {}

  /// The first argument. (As a default of an option, GCC 12 fails on {0}.)
  static ValueNames first() { return {0}; }

  void push_back(ValueName name) { names_.push_back(std::move(name)); }
  bool empty() const { return names_.empty(); }
  auto begin() const { return names_.begin(); }
  auto end() const { return names_.end(); }
  /// Whether any of the names covers the value at `path`.
  bool name(const std::string& path) const {
    for (auto& one : names_)
      if (one.names(path)) return true;
    return false;
  }

 private:
  std::vector<ValueName> names_;
};

}  // namespace wanpar
