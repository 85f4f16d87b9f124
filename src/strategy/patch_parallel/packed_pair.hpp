#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace wanpar {

/// Packs keys and values [batch, heads, tokens, channels] to send and store them between steps: flat, in the
/// given dtype; float8_e4m3fn with a scale per head, its greatest value / 448.
class PackedPair {
 public:
  static constexpr int64_t kTokens = 2;  ///< the token dimension
  PackedPair(const at::Tensor& key, const at::Tensor& value, std::optional<at::ScalarType> dtype);

  at::Tensor packed(const std::vector<at::Tensor>& pair) const;
  /// The packed size, in elements, of so many tokens.
  int64_t numel(int64_t tokens) const;
  /// Keys and values of so many tokens, in the model's dtype.
  std::vector<at::Tensor> unpacked(const at::Tensor& flat, int64_t tokens) const;
  /// Bytes per packed element.
  int64_t element_size() const { return static_cast<int64_t>(is_scaled() ? 1 : c10::elementSize(dtype_)); }

 private:
  bool is_scaled() const { return dtype_ == at::kFloat8_e4m3fn; }

  at::TensorOptions like_;
  at::ScalarType dtype_;
  std::vector<int64_t> key_, value_;  // shapes, without the number of tokens
};

}  // namespace wanpar
