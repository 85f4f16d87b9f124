#include "wan/launch/traced.hpp"

#include <wanpar/core/agreement.hpp>
#include <wanpar/extend/files/new_file.hpp>
#include <wanpar/extend/files/part_file.hpp>
#include <wanpar/transport/tracing.hpp>

namespace wan {

void traced(const wanpar::Communicator& world, const std::filesystem::path& file,
            const std::function<void(const wanpar::Communicator&)>& work) {
  if (file.empty()) return work(world);
  constexpr uintmax_t kExpectedBytes = 1 << 20;
  wanpar::all_or_none(world, [&] {
    if (world.rank() == 0) wanpar::check_writable(file, kExpectedBytes);
  });
  wanpar::Tracing tracing;
  work(tracing(world));
  const auto text = tracing.of_all(world);
  wanpar::all_or_none(world, [&] {
    if (world.rank() == 0) wanpar::write_text(file, text);
  });
}

}  // namespace wan
