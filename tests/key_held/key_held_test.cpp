// A program of its own: what is registered with the dispatcher stays so for the life of the process.
#include <ATen/core/dispatch/Dispatcher.h>
#include <doctest/doctest.h>
#include <wanpar/core/error.hpp>
#include <wanpar/module/interceptor.hpp>

TEST_CASE("a dispatch key that another library holds is an error that says so, and the process lives on") {
  static auto other = c10::Dispatcher::singleton().registerFallback(
      c10::DispatchKey::DeferredInit, c10::KernelFunction::makeFallthrough(), "torchdistx");
  wanpar::Handler handler;
  for (int attempt = 0; attempt < 2; ++attempt)
    CHECK_THROWS_WITH_AS(wanpar::Scope scope(handler),
                         doctest::Contains("held by another library, or by a second copy of wanpar"),
                         wanpar::Error);
  CHECK_THROWS_WITH_AS(wanpar::Scope scope(handler), doctest::Contains("torchdistx"), wanpar::Error);
  auto x = at::ones({1, 1, 2, 4});
  CHECK(at::scaled_dot_product_attention(x, x, x).sum().item<float>() == 8);
}
