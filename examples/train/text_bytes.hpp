#pragma once
#include <ATen/core/Tensor.h>

#include <string>

namespace wan::train {

/// A text as a tensor, for files that hold nothing else: [bytes], uint8.
at::Tensor bytes_of(const std::string& text);
std::string text_of(const at::Tensor& bytes);

}  // namespace wan::train
