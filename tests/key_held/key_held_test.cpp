// A program of its own: nobody has registered anything with the dispatcher before.
#include <ATen/core/dispatch/Dispatcher.h>
#include <doctest/doctest.h>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/module/interceptor.hpp>

namespace key_held_test {

TEST_CASE("a dispatch key that another library holds is an error that says so, and the process lives on") {
  struct PassesOn : wanpar::OperatorHandler {
    wanpar::Tensors around(const wanpar::Operator& op, const Next& next) override { return next(op); }
  } handler;
  auto x = at::ones({1, 1, 2, 4});
  for (auto key : {c10::DispatchKey::DeferredInit, c10::DispatchKey::TESTING_ONLY_GenericMode}) {
    INFO(c10::toString(key));
    auto other = c10::Dispatcher::singleton().registerFallback(key, c10::KernelFunction::makeFallthrough(),
                                                               "torchdistx");
    for (int attempt = 0; attempt < 2; ++attempt)
      CHECK_THROWS_WITH_AS(wanpar::Scope scope(handler),
                           doctest::Contains("held by another library, or by a second copy of wanpar"),
                           wanpar::Error);
    CHECK_THROWS_WITH_AS(wanpar::Scope scope(handler), doctest::Contains("torchdistx"), wanpar::Error);
    CHECK(at::scaled_dot_product_attention(x, x, x).sum().item<float>() == 8);
  }
  wanpar::Scope scope(handler);  // once nobody holds them
  CHECK(at::scaled_dot_product_attention(x, x, x).sum().item<float>() == 8);
}

}  // namespace key_held_test
