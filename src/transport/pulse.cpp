#include "transport/pulse.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <pthread.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <deque>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <wanpar/core/error.hpp>

#include "transport/deadline.hpp"

namespace wanpar {
namespace {

using std::chrono::milliseconds;

constexpr size_t kLongestLine = 65'536;
constexpr const char* kAsTheMaster = "-";  // in the place of an address

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

void limit_waits(const Socket& socket, milliseconds limit) {
  timeval time{limit.count() / 1000, limit.count() % 1000 * 1000};
  setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
  setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time));
}

/// Adds what has come to a text; whether more may come.
bool receive_more(const Socket& socket, std::string& text) {
  char part[4096];
  auto n = recv(socket.get(), part, sizeof(part), 0);
  if (n > 0) text.append(part, n);
  return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

/// A question to one rank, and what it has said so far.
struct Talk {
  int rank;
  Socket socket;
  std::string question;
  bool is_sent = false;
  std::string reply = {};

  /// Whether it has come to an end: the reply is there, or never will be.
  bool goes_on(short events) {
    if (!is_sent && (events & POLLOUT)) {
      auto n = send(socket.get(), question.data(), question.size(), MSG_NOSIGNAL);
      is_sent = n == static_cast<ssize_t>(question.size());
      if (!is_sent) return false;
    }
    if (events & (POLLIN | POLLHUP | POLLERR)) return receive_more(socket, reply) && !is_complete();
    return true;
  }
  bool is_complete() const { return reply.ends_with('\n'); }
};

}  // namespace

Pulse::Pulse(const std::string& host, const Endpoint& master) : master_(master) {
  auto own = own_address(master);
  auto at = (is_this_host(host) ? own : own.anywhere()).with_port(0);
  int both[2] = {-1, -1};
  listener_ = Socket(socket(at.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
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
  stop_ = Socket();
  thread_.join();
}

void Pulse::meet(int rank, int keeper, const std::vector<std::string>& addresses) {
  rank_ = rank;
  keeper_ = keeper;
  for (auto& address : addresses) {
    std::istringstream words(address);
    std::string host, token;
    int port = 0;
    words >> host >> port >> token;
    auto there =
        host == kAsTheMaster ? master_.with_port(port) : Endpoint::find(host, port).value_or(master_);
    peers_.emplace_back(there, token);
  }
}

void Pulse::enter(const std::string& group) {
  std::lock_guard lock(mutex_);
  groups_[group] = 0;
}

void Pulse::begin(const std::string& group, uint64_t call) {
  std::lock_guard lock(mutex_);
  groups_[group] = call;
}

void Pulse::leave(const std::string& group) {
  std::lock_guard lock(mutex_);
  groups_.erase(group);
}

void Pulse::serve() {
  while (true) {
    pollfd ready[] = {{stopped_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
    poll(ready, 2, -1);
    if (ready[0].revents) return;
    if (!ready[1].revents) continue;
    Socket client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!client) {  // out of descriptors, say
      std::this_thread::sleep_for(milliseconds(10));
      continue;
    }
    limit_waits(client, milliseconds(200));
    std::string question;
    for (Deadline deadline(milliseconds(200)); !question.ends_with('\n') && !deadline.is_over();)
      if (question.size() > kLongestLine || !receive_more(client, question)) break;
    auto reply = answer(question);
    if (!reply.empty()) send(client.get(), reply.data(), reply.size(), MSG_NOSIGNAL);
  }
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
  told_[teller] = blamed;
  return "heard\n";
}

/// What each of these ranks replies: nothing where it has ended, no entry where it is silent.
std::map<int, std::string> Pulse::ask(const std::vector<int>& ranks, const std::string& question,
                                      milliseconds limit) const {
  constexpr size_t kAtOnce = 64;
  std::map<int, std::string> replies;
  std::deque<int> to_come(ranks.begin(), ranks.end());
  std::vector<Talk> talks;
  for (Deadline deadline(limit); !(to_come.empty() && talks.empty()) && !deadline.is_over();) {
    for (; !to_come.empty() && talks.size() < kAtOnce; to_come.pop_front()) {
      auto rank = to_come.front();
      auto& [there, token] = peers_[rank];
      auto socket = connecting_to(there);
      if (socket)
        talks.push_back({rank, std::move(socket), fmt::format("{} {}\n", token, question)});
      else if (errno == ECONNREFUSED)
        replies[rank] = {};
    }
    std::vector<pollfd> ready;
    for (auto& talk : talks)
      ready.push_back({talk.socket.get(), static_cast<short>(talk.is_sent ? POLLIN : POLLOUT), 0});
    poll(ready.data(), ready.size(), static_cast<int>(deadline.left().count()));
    std::vector<Talk> others;
    for (size_t i = 0; i < talks.size(); ++i) {
      if (!ready[i].revents || talks[i].goes_on(ready[i].revents))
        others.push_back(std::move(talks[i]));
      else
        replies[talks[i].rank] = talks[i].is_complete() ? talks[i].reply : "";
    }
    talks = std::move(others);
  }
  return replies;
}

/// Of some ranks that were `found` so, those that did not end because of another: who is gone may have said
/// whom it found gone before. Of these, those of whom the worst is known.
Pulse::States Pulse::to_blame(const States& some, const States& found) const {
  std::lock_guard lock(mutex_);
  auto is_still_so = [&](const std::pair<const int, State>& said) {  // or the teller had got over it
    auto [rank, state] = said;
    auto now = found.find(rank);
    return state == State::behind || now == found.end() || now->second < State::behind;
  };
  States blamed;
  std::vector<std::pair<int, State>> open(some.begin(), some.end());
  std::set<int> seen;
  while (!open.empty()) {
    auto [rank, state] = open.back();
    open.pop_back();
    if (state == State::here || rank == rank_ || !seen.insert(rank).second) continue;
    auto said = told_.find(rank);
    bool is_gone = state == State::ended || state == State::left;
    if (is_gone && said != told_.end() && std::ranges::all_of(said->second, is_still_so))
      open.insert(open.end(), said->second.begin(), said->second.end());
    else
      blamed[rank] = state;
  }
  if (blamed.empty()) return blamed;
  auto worst = std::ranges::min_element(blamed, {}, &States::value_type::second)->second;
  std::erase_if(blamed, [&](auto& one) { return one.second != worst; });
  return blamed;
}

/// Tells the ranks that answered whom this one is about to blame.
void Pulse::tell(const States& blamed, const std::vector<int>& who_answer, milliseconds limit) const {
  if (blamed.empty()) return;
  auto text = fmt::format("blames {}", rank_);
  for (auto& [rank, state] : blamed) text += fmt::format(" {} {}", rank, static_cast<int>(state));
  ask(who_answer, text, limit);
}

/// Asks all ranks of the run. One outside of the group concerns it where it is silent; one that has ended may
/// have done its part.
Pulse::States Pulse::find(const Group& group, const Call& call, int peer, bool is_late) {
  std::vector<int> others, who_answer;
  for (int rank = 0; rank < static_cast<int>(peers_.size()); ++rank)
    if (rank != rank_) others.push_back(rank);
  auto limit = std::clamp(call.timeout / 5, milliseconds(100), milliseconds(2000));
  auto number = peer < 0 ? call.sequence : 0;  // of exchanges no count is kept
  auto replies = ask(others, fmt::format("where {} {}", number, group.name), limit);

  auto is_needed = [&](int rank) { return rank == keeper_ && call.operation == Operation::subgroup; };
  States found, inside, outside;
  for (auto rank : others) {
    auto reply = replies.find(rank);
    auto state = reply == replies.end()  ? State::silent
                 : reply->second.empty() ? State::ended
                                         : static_cast<State>(std::stoi(reply->second));
    found[rank] = state;
    if (state != State::silent && state != State::ended) who_answer.push_back(rank);
    if (std::ranges::count(group.members, rank))
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
  auto blamed = to_blame(inside, found);
  bool is_gone = !blamed.empty() && blamed.begin()->second != State::behind;
  if (auto elsewhere = to_blame(outside, found); !is_gone && !elsewhere.empty()) blamed = elsewhere;
  tell(blamed, who_answer, limit);
  return blamed;
}

std::string Pulse::who(const Group& group, const States& blamed) const {
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

std::string Pulse::how(const States& blamed) {
  switch (blamed.begin()->second) {
    case State::ended:
      return "ended, and was probably killed or crashed";
    case State::left:
      return "left the group: its program failed, or returned early";
    case State::silent:
      return "gave no answer: it is stopped, or out of reach";
    default:
      return "answered, but made no such call";
  }
}

std::string Pulse::failed(const Group& group, const Call& call, int peer, const std::string& detail) {
  auto blamed = find(group, call, peer, false);
  if (!blamed.empty())
    return fmt::format("{}: {} {} ({})", where(call), who(group, blamed), how(blamed), detail);
  auto to = peer < 0 ? "another rank" : fmt::format("rank {}", peer);
  return fmt::format("{}: the connection to {} failed, though all ranks answer ({})", where(call), to,
                     detail);
}

std::string Pulse::too_late(const Group& group, const Call& call, int peer) {
  auto blamed = find(group, call, peer, true);
  if (blamed.empty()) return wanpar::too_late(call, "a rank");
  return fmt::format("{}; it {}", wanpar::too_late(call, who(group, blamed)), how(blamed));
}

}  // namespace wanpar
