#include "module/check_in_backward.hpp"

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>

#include <memory>
#include <utility>

namespace wanpar {
namespace {

class Check : public torch::autograd::FunctionPreHook {
 public:
  explicit Check(std::function<void()> check) : check_(std::move(check)) {}
  torch::autograd::variable_list operator()(const torch::autograd::variable_list& gradients) override {
    check_();
    return gradients;
  }

 private:
  std::function<void()> check_;
};

}  // namespace

void check_in_backward(const at::Tensor& x, std::function<void()> check) {
  if (x.defined() && x.requires_grad() && x.grad_fn())
    x.grad_fn()->add_pre_hook(std::make_unique<Check>(std::move(check)));
}

}  // namespace wanpar
