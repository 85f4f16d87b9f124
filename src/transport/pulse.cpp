#include "transport/pulse.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <pthread.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <random>
#include <sstream>
#include <utility>

#include "transport/deadline.hpp"

namespace wanpar {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kTick(250);
constexpr const char* kAsTheMaster = "-";  // in the place of an address
constexpr const char* kLeft = "left ";     // how a rank says that it leaves a group: its last call, the name

/// Threads begun while it lives see no signal: handlers are the program's own business, on its own threads.
class WithoutSignals {
 public:
  WithoutSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~WithoutSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

/// The address of this host from which packets to another one go.
Endpoint own_address(const Endpoint& there) {
  Socket probe(socket(there.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!probe || connect(probe.get(), there.get(), there.size()) != 0) return there;
  return Endpoint::of(probe);
}

bool contains(const RunGroup& group, int rank) { return std::ranges::count(group.members, rank) > 0; }

}  // namespace

Pulse::Pulse(const std::string& host, const Endpoint& master) : master_(master), clock_(2 * kTick) {
  auto own = own_address(master);
  auto at = (is_this_host(host) ? own : own.anywhere()).with_port(0);
  int both[2] = {-1, -1};
  listener_ = Socket(socket(at.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  bool is_up = bind(listener_.get(), at.get(), at.size()) == 0 && listen(listener_.get(), 1024) == 0 &&
               socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both) == 0;
  stop_ = Socket(both[0]), stopped_ = Socket(both[1]);
  if (!is_up) throw Error(fmt::format("no port could be opened on this host: {}", std::strerror(errno)));

  std::random_device random;
  token_ = fmt::format("{:08x}{:08x}", random(), random());
  address_ = fmt::format("{} {} {}", own.is_loopback() ? kAsTheMaster : own.host(),
                         Endpoint::of(listener_).port(), token_);
  WithoutSignals quiet;
  thread_ = std::thread([this] { serve(); });
}

Pulse::~Pulse() {
  {
    std::lock_guard lock(mutex_);
    if (beats_) beats_->say(Beats::kBye);
  }
  stop_ = Socket();
  thread_.join();
  listener_ = Socket();  // nobody answers any more
}

void Pulse::meet(int rank, int keeper, const std::vector<std::string>& addresses, Heartbeat heartbeat) {
  std::vector<Peer> peers;
  for (auto& address : addresses) {
    std::istringstream words(address);
    std::string host, token;
    int port = 0;
    words >> host >> port >> token;
    auto there =
        host == kAsTheMaster ? master_.with_port(port) : Endpoint::find(host, port).value_or(master_);
    peers.push_back({there, token});
  }
  std::lock_guard lock(mutex_);
  rank_ = rank;
  keeper_ = keeper;
  peers_ = std::move(peers);
  on_lost_ = std::move(heartbeat.on_lost);
  if (heartbeat.period.count() > 0) beats_.emplace(rank, peers_, heartbeat.period, clock_.now());
  for (auto& [rank, client, heard] : std::exchange(early_, {}))
    if (beats_) beats_->accept(rank, std::move(client), std::move(heard), clock_.now());
}

void Pulse::enter(const std::string& group) {
  std::lock_guard lock(mutex_);
  groups_[group] = 0;
}

void Pulse::begin(const std::string& group, uint64_t call) {
  std::lock_guard lock(mutex_);
  auto& last = groups_[group];
  last = std::max(last, call);  // several communicators may number the calls of one group
}

void Pulse::leave(const std::string& group) {
  std::lock_guard lock(mutex_);
  if (beats_) beats_->say(fmt::format("{}{} {}", kLeft, groups_[group], group));
  groups_.erase(group);
  left_.erase(group);
}

void Pulse::add(Wait& wait) {
  constexpr milliseconds kWork(100);  // between two waits
  std::lock_guard lock(mutex_);
  if (waits_.empty() && std::chrono::steady_clock::now() - last_wait_ended_ > kWork) {
    has_moved_ = true;
    own_move_ = clock_.now();
  }
  waits_[&wait] = clock_.now() - (wait.call_.timeout - wait.deadline_.left());
}

void Pulse::remove(Wait& wait) {
  {
    std::lock_guard lock(mutex_);
    waits_.erase(&wait);
    last_wait_ended_ = std::chrono::steady_clock::now();
    if (wait.end_ == Wait::End::none) {
      has_moved_ = true;
      return;
    }
  }
  std::lock_guard until_it_is_done(interrupting_);
}

void Pulse::serve() {
  while (true) {
    ready_.assign({{stopped_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}});
    {
      std::lock_guard lock(mutex_);
      if (beats_) beats_->wait_for(ready_);
    }
    poll(ready_.data(), ready_.size(), static_cast<int>(kTick.count()));
    if (ready_[0].revents) return;
    take_news();
    if (ready_[1].revents) admit();
    pass();
  }
}

void Pulse::take_news() {
  if (ready_.size() == 2) return;
  std::lock_guard lock(mutex_);
  for (auto& [rank, line] : beats_->hear(std::span(ready_).subspan(2), clock_.now())) {
    uint64_t call = 0;
    std::string verb, group;
    std::istringstream(line) >> verb >> call >> group;
    if (line.starts_with(kLeft) && groups_.contains(group)) left_[group][rank] = call;
  }
}

/// Lets in who has come: with a question, or to beat.
void Pulse::admit() {
  Socket client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!client) {  // out of descriptors, say
    std::this_thread::sleep_for(milliseconds(10));
    return;
  }
  auto heard = receive_line(client);
  std::istringstream words(heard);
  std::string token, verb;
  int rank = -1;
  words >> token >> verb >> rank;
  if (token == token_ && verb == Beats::kVerb) {
    std::lock_guard lock(mutex_);
    heard.erase(0, heard.find('\n') + 1);
    if (peers_.empty())
      early_.push_back({rank, std::move(client), std::move(heard)});
    else if (beats_)
      beats_->accept(rank, std::move(client), std::move(heard), clock_.now());
    return;
  }
  auto reply = answer(heard);
  if (!reply.empty()) send(client.get(), reply.data(), reply.size(), MSG_NOSIGNAL);
}

/// What time brings.
void Pulse::pass() {
  States lost;
  {
    std::lock_guard lock(mutex_);
    clock_.pass();
    if (!beats_) return;
    if (beats_->beat(waits_.empty() || has_moved_, clock_.now())) has_moved_ = false;
    lost = beats_->lost(clock_.now());
  }
  end_waits(lost);
  if (!lost.empty() && on_lost_) report(lost);
}

void Pulse::end_waits(const States& lost) {
  std::lock_guard until_it_is_done(interrupting_);
  std::vector<Wait*> over;
  {
    std::lock_guard lock(mutex_);
    for (auto& [wait, since] : waits_) {
      if (wait->end_ != Wait::End::none) continue;
      if (is_lost(*wait, lost))
        wait->end_ = Wait::End::lost;
      else if (is_late(*wait, since))
        wait->end_ = Wait::End::late;
      else
        continue;
      if (wait->interrupt_) over.push_back(wait);
    }
  }
  for (auto* wait : over) wait->interrupt_();
}

/// Whether a rank that this wait may be for is lost, or has left without having begun the call.
bool Pulse::is_lost(const Wait& wait, const States& lost) const {
  auto& call = wait.call_;
  for (auto& [rank, state] : lost)
    if (contains(wait.group_, rank) || (rank == keeper_ && call.operation == Operation::subgroup))
      return true;
  auto left = left_.find(wait.group_.name);
  return call.sequence > 0 && left != left_.end() &&
         std::ranges::any_of(left->second, [&](auto& one) { return one.second < call.sequence; });
}

bool Pulse::is_late(const Wait& wait, milliseconds since) const {
  auto last = std::max({since, beats_->last_move(), own_move_});
  return clock_.now() - last > std::max(wait.call_.timeout, 3 * beats_->period());
}

void Pulse::report(const States& lost) {
  RunGroup run{"world", {}};
  for (int rank = 0; rank < static_cast<int>(peers_.size()); ++rank) run.members.push_back(rank);
  States blamed;
  {
    std::lock_guard lock(mutex_);
    blamed = blame_.of(lost, lost, rank_);
  }
  if (blamed.empty()) return;
  auto sentence = fmt::format("rank {} of {}: {} {}", rank_, peers_.size(), who(run, blamed), how(blamed));
  // Who ends by it may do so without a word of its own.
  telling_ = std::jthread([this, on_lost = std::exchange(on_lost_, nullptr), blamed, sentence] {
    constexpr milliseconds kLimit(300);
    auto all = blamed;
    for (int rank = 0; rank < static_cast<int>(peers_.size()); ++rank)
      if (rank != rank_) all.emplace(rank, State::here);
    tell(blamed, all, kLimit);
    on_lost(PeerLostError(sentence));
  });
}

/// Nothing for who does not know this rank's token: another program, or one that takes this process for
/// another.
std::string Pulse::answer(const std::string& question) {
  std::istringstream words(question);
  std::string token, verb, group;
  words >> token >> verb;
  if (token != token_ || !question.ends_with('\n')) return {};

  std::lock_guard lock(mutex_);
  if (verb == "where") {
    uint64_t call = 0;
    words >> call >> group;
    auto found = groups_.find(group);
    auto state = found == groups_.end() ? State::left : found->second < call ? State::behind : State::here;
    return fmt::format("{}\n", static_cast<int>(state));
  }
  int teller = 0, rank = 0, state = 0;
  words >> teller;
  States blamed;
  while (words >> rank >> state) blamed[rank] = static_cast<State>(state);
  blame_.hear(teller, std::move(blamed));
  return "heard\n";
}

/// How all others are: those of whom beats do not say it already are asked.
States Pulse::found_by_asking(const std::string& question, milliseconds limit) const {
  States found;
  {
    std::lock_guard lock(mutex_);
    if (beats_) found = beats_->lost(clock_.now());
  }
  std::vector<int> to_ask;
  for (int rank = 0; rank < static_cast<int>(peers_.size()); ++rank)
    if (rank != rank_ && !found.contains(rank)) to_ask.push_back(rank);
  auto replies = ask(peers_, to_ask, question, limit);
  std::lock_guard lock(mutex_);
  for (auto rank : to_ask) {
    auto reply = replies.find(rank);
    found[rank] = reply == replies.end()             ? State::silent
                  : !reply->second.empty()           ? static_cast<State>(std::stoi(reply->second))
                  : beats_ && beats_->said_bye(rank) ? State::left
                                                     : State::ended;
  }
  return found;
}

/// Tells the ranks that answered whom this one is about to blame.
void Pulse::tell(const States& blamed, const States& found, milliseconds limit) const {
  if (blamed.empty()) return;
  auto text = fmt::format("blames {}", rank_);
  for (auto& [rank, state] : blamed) text += fmt::format(" {} {}", rank, static_cast<int>(state));
  std::vector<int> who_answer;
  for (auto& [rank, state] : found)
    if (state != State::silent && state != State::ended) who_answer.push_back(rank);
  ask(peers_, who_answer, text, limit);
}

/// Asks all ranks of the run. One outside of the group concerns it where it is silent; one that has ended may
/// have done its part.
States Pulse::find(const RunGroup& group, const Call& call, int peer, bool is_late) {
  auto limit = std::clamp(call.timeout / 5, milliseconds(100), milliseconds(2000));
  auto number = peer < 0 ? call.sequence : 0;  // of exchanges no count is kept
  auto found = found_by_asking(fmt::format("where {} {}", number, group.name), limit);

  auto is_needed = [&](int rank) { return rank == keeper_ && call.operation == Operation::subgroup; };
  States inside, outside;
  for (auto& [rank, state] : found) {
    if (contains(group, rank))
      inside[rank] = state;
    else if (state == State::silent || (state == State::ended && is_needed(rank)))
      outside[rank] = state;
  }
  if (peer >= 0) {
    auto of_peer = *inside.find(group.members[peer]);
    if (is_late) of_peer.second = std::min(of_peer.second, State::behind);
    bool is_gone = of_peer.second <= State::left;  // others may have gone before, and been done
    if (is_gone) inside.clear();
    inside[of_peer.first] = of_peer.second;
  }
  std::unique_lock lock(mutex_);
  auto blamed = blame_.of(inside, found, rank_);
  bool is_gone = !blamed.empty() && blamed.begin()->second != State::behind;
  if (auto elsewhere = blame_.of(outside, found, rank_); !is_gone && !elsewhere.empty()) blamed = elsewhere;
  lock.unlock();
  tell(blamed, found, limit);
  return blamed;
}

std::string Pulse::who(const RunGroup& group, const States& blamed) const {
  std::vector<std::string> names;
  for (auto& [rank, state] : blamed) {
    auto place = std::ranges::find(group.members, rank) - group.members.begin();
    bool is_member = place < std::ssize(group.members), is_run = group.members.size() == peers_.size();
    names.push_back(is_run && place == rank ? fmt::format("rank {}", rank)
                    : is_member             ? fmt::format("rank {} (rank {} of the run)", place, rank)
                                            : fmt::format("rank {} of the run", rank));
  }
  return fmt::format("{}", fmt::join(names, " and "));
}

void Pulse::throw_failed(const RunGroup& group, const Call& call, int peer, const std::string& detail) {
  auto blamed = find(group, call, peer, false);
  auto more = detail.empty() ? "" : fmt::format(" ({})", detail);
  if (!blamed.empty())
    throw PeerLostError(fmt::format("{}: {} {}{}", where(call), who(group, blamed), how(blamed), more));
  auto to = peer < 0 ? "another rank" : fmt::format("rank {}", peer);
  throw PeerLostError(
      fmt::format("{}: the connection to {} failed, though all ranks answer{}", where(call), to, more));
}

void Pulse::throw_late(const RunGroup& group, const Call& call, int peer) {
  auto blamed = find(group, call, peer, true);
  if (blamed.empty()) throw TimeoutError(too_late(call, "a rank"));
  auto sentence = fmt::format("{}; it {}", too_late(call, who(group, blamed)), how(blamed));
  if (blamed.begin()->second == State::behind) throw TimeoutError(sentence);
  throw PeerLostError(sentence);
}

}  // namespace wanpar
