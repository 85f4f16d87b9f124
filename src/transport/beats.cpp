#include "transport/beats.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

namespace wanpar {
namespace {

constexpr const char* kMoves = "moves";
constexpr const char* kLives = "lives";

/// What a process had sent before it ended may still be under way.
constexpr std::chrono::milliseconds kGrace(500);

void send_line(const Socket& socket, const std::string& line) {
  auto text = line + "\n";  // whoever takes none any more is stopped, and is found to be so
  (void)::send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace

Beats::Beats(int rank, const std::vector<Peer>& peers, Milliseconds period, Milliseconds now)
    : rank_(rank), peers_(peers), others_(peers.size()), period_(period), sent_(now), last_move_(now) {
  for (int other = rank + 1; other < static_cast<int>(peers.size()); ++other) dial(other, now);
}

void Beats::dial(int rank, Milliseconds now) {
  auto socket = connecting_to(peers_[rank].there);
  if (socket)
    others_[rank].links.push_back({std::move(socket), false, false});
  else if (errno == ECONNREFUSED)
    others_[rank].ended_at = now;
}

void Beats::accept(int rank, Socket socket, std::string heard, Milliseconds now) {
  if (rank < 0 || rank >= static_cast<int>(others_.size()) || rank == rank_) return;
  auto& other = others_[rank];
  send_line(socket, kLives);
  other.links.push_back({std::move(socket), true, true, std::move(heard)});
  other.heard_at = now;
  other.ended_at.reset();
}

void Beats::wait_for(std::vector<pollfd>& ready) const {
  for (auto& other : others_)
    for (auto& link : other.links)
      ready.push_back({link.socket.get(), static_cast<short>(link.stands ? POLLIN : POLLOUT), 0});
}

/// Says who this is on a connection that stands now; false where it came to nothing.
bool Beats::greet(int rank, Link& link, Milliseconds now) {
  int error = 0;
  socklen_t size = sizeof(error);
  getsockopt(link.socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  auto& other = others_[rank];
  if (error == ECONNREFUSED && other.links.size() == 1) other.ended_at = now;
  if (error != 0) return false;
  link.stands = true;
  other.heard_at = std::max(other.heard_at.value_or(now), now);
  send_line(link.socket, fmt::format("{} {} {}", peers_[rank].token, kVerb, rank_));
  return true;
}

/// Takes what has come on a connection; false at its end.
bool Beats::receive(Link& link, Other& other, Milliseconds now) {
  char part[4096];
  while (true) {
    auto n = recv(link.socket.get(), part, sizeof(part), MSG_DONTWAIT);
    if (n > 0) {
      link.heard.append(part, n);
      link.is_answered = true;
      other.heard_at = now;
    } else if (n < 0 && errno == EINTR) {
      continue;
    } else if (n < 0 && errno == EAGAIN) {
      return true;
    } else {
      bool says_something = link.is_answered && other.links.size() == 1;
      if (says_something && (n == 0 || errno == ECONNRESET || errno == EPIPE)) other.ended_at = now;
      return false;
    }
  }
}

void Beats::take_lines(int rank, Link& link, std::vector<News>& news, Milliseconds now) {
  for (size_t end; (end = link.heard.find('\n')) != std::string::npos;) {
    auto line = link.heard.substr(0, end);
    link.heard.erase(0, end + 1);
    if (line == kMoves)
      last_move_ = now;
    else if (line == kBye)
      others_[rank].said_bye = true;
    else if (line != kLives)
      news.push_back({rank, std::move(line)});
  }
}

std::vector<Beats::News> Beats::hear(std::span<const pollfd> ready, Milliseconds now) {
  std::vector<News> news;
  auto next = ready.begin();
  for (int rank = 0; rank < static_cast<int>(others_.size()); ++rank) {
    auto& links = others_[rank].links;
    for (size_t i = 0; i < links.size(); ++next) {
      auto& link = links[i];
      auto stays = true;
      if (next->revents != 0)
        stays = link.stands ? receive(link, others_[rank], now) : greet(rank, link, now);
      take_lines(rank, link, news, now);
      stays ? void(++i) : void(links.erase(links.begin() + static_cast<ptrdiff_t>(i)));
    }
  }
  return news;
}

bool Beats::beat(bool moves, Milliseconds now) {
  if (now - sent_ < period_) return false;
  dial_missing(now);
  sent_ = now;
  say(moves ? kMoves : kLives);
  return true;
}

/// A rank that should have come may be stopped since before, and a connection may have come to nothing.
void Beats::dial_missing(Milliseconds now) {
  for (int rank = 0; rank < static_cast<int>(others_.size()); ++rank) {
    auto& other = others_[rank];
    if (rank != rank_ && other.links.empty() && !other.ended_at && !other.said_bye) dial(rank, now);
  }
}

void Beats::say(const std::string& line) {
  for (auto& other : others_)
    for (auto& link : other.links)
      if (link.stands) send_line(link.socket, line);
}

States Beats::lost(Milliseconds now) const {
  States lost;
  for (int rank = 0; rank < static_cast<int>(others_.size()); ++rank) {
    auto& [links, heard_at, ended_at, said_bye] = others_[rank];
    if (said_bye) continue;
    if (ended_at && now - *ended_at >= kGrace)
      lost[rank] = State::ended;
    else if (!ended_at && heard_at && now - *heard_at > 3 * period_)
      lost[rank] = State::silent;
  }
  return lost;
}

}  // namespace wanpar
