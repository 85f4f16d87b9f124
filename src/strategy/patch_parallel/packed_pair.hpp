#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace wanpar {

/// Keys and values [batch, heads, tokens, channels] as they travel and wait between steps: flat, in the dtype
/// that they are given; float8_e4m3fn with a scale for each head, its greatest value over 448.
class PackedPair {
 public:
  static constexpr int64_t kTokens = 2;  ///< their dimension
  PackedPair(const at::Tensor& key, const at::Tensor& value, std::optional<at::ScalarType> dtype);

  at::Tensor packed(const std::vector<at::Tensor>& pair) const;
  /// How many elements that is for so many tokens.
  int64_t numel(int64_t tokens) const;
  /// Keys and values of so many tokens, in the dtype of the model.
  std::vector<at::Tensor> unpacked(const at::Tensor& flat, int64_t tokens) const;
  /// Bytes of each element.
  int64_t element_size() const { return static_cast<int64_t>(is_scaled() ? 1 : c10::elementSize(dtype_)); }

 private:
  bool is_scaled() const { return dtype_ == at::kFloat8_e4m3fn; }

  at::TensorOptions like_;
  at::ScalarType dtype_;
  std::vector<int64_t> key_, value_;  // shapes, but for the tokens
};

}  // namespace wanpar
