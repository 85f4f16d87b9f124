#pragma once
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "wan/model/transformer.hpp"

namespace wan {

/// The transformer of this process: loaded by the first thread rank that needs it, shared by all of them,
/// freed by the last.
class SharedTransformer {
 public:
  explicit SharedTransformer(std::function<Transformer()> load) : load_(std::move(load)) {}

  Transformer get() {
    std::lock_guard lock(mutex_);
    if (auto made = made_.lock()) return Transformer(std::move(made));
    auto transformer = load_();
    made_ = transformer.ptr();
    return transformer;
  }

 private:
  std::function<Transformer()> load_;
  std::mutex mutex_;
  std::weak_ptr<TransformerImpl> made_;
};

}  // namespace wan
