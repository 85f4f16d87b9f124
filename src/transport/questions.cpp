#include "transport/questions.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/time.h>

#include <cerrno>
#include <deque>
#include <thread>

#include "transport/deadline.hpp"

namespace wanpar {
namespace {

using std::chrono::milliseconds;

constexpr size_t kLongestLine = 65'536;

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
  int error = 0;  ///< of the connection

  /// Whether it has come to an end: the reply is there, or never will be.
  bool goes_on(short events) {
    if (events & POLLERR) {
      socklen_t size = sizeof(error);
      getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
      return false;
    }
    if (!is_sent && (events & POLLOUT)) {
      auto n = send(socket.get(), question.data(), question.size(), MSG_NOSIGNAL);
      is_sent = n == static_cast<ssize_t>(question.size());
      if (!is_sent) return false;
    }
    if (events & (POLLIN | POLLHUP)) return receive_more(socket, reply) && !is_complete();
    return true;
  }
  bool is_complete() const { return reply.ends_with('\n'); }
  bool is_refused() const { return error == ECONNREFUSED; }
};

}  // namespace

std::map<int, std::string> ask(const std::vector<Peer>& peers, const std::vector<int>& ranks,
                               const std::string& question, milliseconds limit) {
  constexpr size_t kAtOnce = 64;
  std::map<int, std::string> replies;
  std::deque<int> to_come(ranks.begin(), ranks.end());
  std::vector<Talk> talks;
  for (Deadline deadline(limit); !(to_come.empty() && talks.empty()) && !deadline.is_over();) {
    for (; !to_come.empty() && talks.size() < kAtOnce; to_come.pop_front()) {
      auto rank = to_come.front();
      auto& [there, token] = peers[rank];
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
      else if (talks[i].is_complete() || talks[i].is_refused())
        replies[talks[i].rank] = talks[i].reply;
      else  // it has just ended, and will refuse, or was too busy
        to_come.push_back(talks[i].rank);
    }
    if (others.empty() && !to_come.empty()) std::this_thread::sleep_for(milliseconds(5));
    talks = std::move(others);
  }
  return replies;
}

std::string receive_line(const Socket& socket) {
  constexpr milliseconds kLimit(200);
  timeval time{0, kLimit.count() * 1000};
  setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
  setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time));
  std::string line;
  for (Deadline deadline(kLimit); !line.ends_with('\n') && !deadline.is_over();)
    if (line.size() > kLongestLine || !receive_more(socket, line)) break;
  return line;
}

}  // namespace wanpar
