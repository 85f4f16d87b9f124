#pragma once
#include <wanpar/core/communicator.hpp>
#include <wanpar/core/error.hpp>

#include <chrono>
#include <functional>

namespace wan {

/// An Error that every rank throws alike, so that one of them need say it.
class AgreedError : public wanpar::Error {
 public:
  using wanpar::Error::Error;
};

/// How long ranks wait for one that loads, decodes or writes.
inline constexpr std::chrono::hours kPatience{1};

/// Collective. Runs what each rank does for itself, and lets none go on when it failed on one: then every
/// rank throws AgreedError with the sentence of the first rank that failed.
void agree(const wanpar::Communicator& world, const std::function<void()>& action);

}  // namespace wan
