#pragma once
#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <atomic>
#include <map>
#include <string>

/// A temporary file of a module's weights, one behind the other, which ranks read in pieces.
class WeightFile {
 public:
  explicit WeightFile(const torch::nn::Module& module);
  ~WeightFile();
  WeightFile(const WeightFile&) = delete;
  WeightFile& operator=(const WeightFile&) = delete;

  /// Elements [begin, end) of a weight, flat.
  at::Tensor read(const std::string& name, int64_t begin, int64_t end);

  int64_t size() const { return size_; }
  /// Bytes that the system has handed out, to all readers together.
  int64_t bytes_read() const { return read_; }

 private:
  struct Place {
    int64_t offset;
    at::TensorOptions options;
  };
  int file_;
  std::map<std::string, Place> places_;
  int64_t size_ = 0;
  std::atomic<int64_t> read_ = 0;
};
