#include "transport/c10d_membership.hpp"

#include <fmt/format.h>

#include <wanpar/core/error.hpp>

#include "core/sentence.hpp"

namespace wanpar {
namespace {

std::string name_of(int peer) { return peer < 0 ? "a rank" : fmt::format("rank {}", peer); }

}  // namespace

Membership::Membership(RunGroup group, std::shared_ptr<Pulse> pulse)
    : group_(std::move(group)), pulse_(std::move(pulse)) {
  if (pulse_) pulse_->enter(group_.name);
}

Membership::~Membership() {
  if (pulse_) pulse_->leave(group_.name);
}

std::shared_ptr<Membership> Membership::of_part(const std::string& name, std::span<const int> ranks) const {
  RunGroup part{name, {}};
  for (auto rank : ranks) part.members.push_back(pulse_ ? group_.members[rank] : rank);
  return std::make_shared<Membership>(std::move(part), pulse_);
}

void Membership::begin(const Call& call) const {
  {
    std::lock_guard lock(mutex_);
    if (failure_) std::rethrow_exception(failure_);
  }
  if (pulse_ && call.sequence > 0) pulse_->begin(group_.name, call.sequence);
}

void Membership::keep_and_throw(const std::function<void()>& thrower) const {
  try {
    thrower();
  } catch (...) {
    std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::current_exception();
  }
  std::lock_guard lock(mutex_);
  std::rethrow_exception(failure_);
}

void Membership::throw_broken(const Call& call, int peer, const std::exception& failure) const {
  auto detail = first_line(failure.what());
  if (pulse_) pulse_->throw_failed(group_, call, peer, detail);
  throw PeerLostError(fmt::format("{}: the connection to {} failed; it has probably died ({})", where(call),
                                  name_of(peer), detail));
}

void Membership::throw_late(const Call& call, int peer) const {
  if (pulse_) pulse_->throw_late(group_, call, peer);
  throw TimeoutError(too_late(call, name_of(peer)));
}

void Membership::throw_failed(const Call& call, int peer, const std::exception& failure) const {
  keep_and_throw([&] { throw_broken(call, peer, failure); });
}

void Membership::throw_ended(const Wait& wait, const Call& call, int peer,
                             const std::exception& failure) const {
  keep_and_throw([&] {
    if (wait.found_lost()) pulse_->throw_failed(group_, call, -1, "");
    if (wait.is_over()) throw_late(call, peer);
    throw_broken(call, peer, failure);
  });
}

}  // namespace wanpar
