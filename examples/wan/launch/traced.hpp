#pragma once
#include <filesystem>
#include <functional>
#include <wanpar/core/communicator.hpp>

namespace wan {

/// Collective. Runs `work` on a rank; where a file is named, rank 0 writes into it when the ranks have
/// computed, transferred and waited, once all are done. Whether it can be written is seen to before.
void traced(const wanpar::Communicator& world, const std::filesystem::path& file,
            const std::function<void(const wanpar::Communicator&)>& work);

}  // namespace wan
