#include "wan/generate/agree.hpp"

#include <ATen/ATen.h>

#include <cstring>
#include <string>

namespace wan {

void agree(const wanpar::Communicator& world, const std::function<void()>& action) {
  std::string failure;
  try {
    action();
  } catch (const wanpar::Error& error) {
    if (world.size() == 1) throw;
    failure = error.what();
  } catch (const std::exception& error) {
    if (world.size() == 1) throw;
    failure = std::string(error.what()).substr(0, std::string(error.what()).find('\n'));
  }
  if (world.size() == 1) return;

  const auto lengths =
      world.all_gather(at::tensor({static_cast<int64_t>(failure.size())}).to(world.device())).get();
  for (int rank = 0; rank < world.size(); ++rank) {
    const auto length = lengths[rank].item<int64_t>();
    if (length == 0) continue;
    auto text = at::zeros({length}, at::kByte);
    if (rank == world.rank()) std::memcpy(text.data_ptr(), failure.data(), failure.size());
    text = world.broadcast(text.to(world.device()), rank).get().cpu();
    throw AgreedError(std::string(static_cast<const char*>(text.data_ptr()), static_cast<size_t>(length)));
  }
}

}  // namespace wan
