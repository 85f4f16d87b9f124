#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <wanpar/transport/c10d.hpp>

#include "worlds.hpp"

namespace foreign_backend_test {
namespace {

/// Takes itself for NCCL, and cannot send.
class Mute : public c10d::Backend {
 public:
  Mute() : c10d::Backend(/*rank=*/0, /*size=*/2) {}
  const std::string getBackendName() const override { return "nccl"; }
  void startCoalescing() override { ++open; }
  c10::intrusive_ptr<c10d::Work> endCoalescing() override { return --open, nullptr; }
  c10::intrusive_ptr<c10d::Work> send(std::vector<at::Tensor>&, int, int) override {
    throw std::runtime_error("it is mute");
  }

  int open = 0;
};

/// The transport over one; none in a build that has no NCCL.
std::shared_ptr<wanpar::Transport> transport_over(const c10::intrusive_ptr<Mute>& backend) {
  try {
    return wanpar::c10d_transport(backend);
  } catch (const wanpar::Error& error) {
    CHECK(std::string(error.what()).starts_with("this build has no NCCL"));
    return nullptr;
  }
}

}  // namespace

TEST_CASE("an NCCL backend of the user's own moves what is on a GPU") {
  if (auto transport = transport_over(c10::make_intrusive<Mute>())) CHECK(transport->device() == "cuda");
}

TEST_CASE("a send that fails leaves no group of calls open, which would hold back all later ones") {
  auto backend = c10::make_intrusive<Mute>();
  auto transport = transport_over(backend);
  if (!transport) return;
  std::vector<wanpar::Message> sends{{at::zeros({1}, at::kByte), 1}};
  CHECK_NOTHROW(require_error([&] { transport->exchange(sends, {}, {}); }, "it is mute"));
  CHECK(backend->open == 0);
}

}  // namespace foreign_backend_test
