#include "wan/serve/http/connection.hpp"

// GCC 12 takes Asio's frames of coroutines for allocated in one way and freed in another.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

#include <fmt/format.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <fstream>
#include <iostream>
#include <vector>

#include "wan/serve/http/refusal.hpp"
#include "wan/serve/http/subscription.hpp"

namespace wan::serve {
namespace net = boost::asio;
namespace beast = boost::beast;
using boost::system::error_code;
namespace {

auto no_throw(error_code& error) { return net::redirect_error(net::use_awaitable, error); }

Refusal refusal_of(error_code error, const Limits& limits) {
  if (error == http::error::header_limit || error == http::error::buffer_overflow)
    return {http::status::request_header_fields_too_large, "headers_too_large",
            fmt::format("the request's header is larger than {} bytes", limits.header_bytes)};
  if (error == http::error::body_limit)
    return {http::status::payload_too_large, "body_too_large",
            fmt::format("the request's body is larger than {} bytes", limits.body_bytes)};
  return {http::status::bad_request, "invalid_request", "this is not an HTTP/1.1 request"};
}

Answer too_many() {
  return answer_of(Refusal(http::status::service_unavailable, "too_many_connections",
                           "there are too many connections; try again soon", "", {{"Retry-After", "1"}}));
}

/// What must not be read in two ways.
void check_header(const Request& request, const Limits& limits) {
  const auto refuse = [](const char* sentence) {
    throw Refusal(http::status::bad_request, "invalid_request", sentence);
  };
  if (request.version() != 11 && request.version() != 10)
    throw Refusal(http::status::http_version_not_supported, "invalid_request", "this server speaks HTTP/1.1");
  const auto fields = static_cast<size_t>(std::distance(request.begin(), request.end()));
  if (fields > limits.fields)
    throw Refusal(http::status::request_header_fields_too_large, "headers_too_large",
                  fmt::format("the request's header has more than {} fields", limits.fields));
  if (request.count(http::field::transfer_encoding) > 0 && request.count(http::field::content_length) > 0)
    refuse("the request has both a Content-Length and a Transfer-Encoding");
  if (request.count(http::field::host) > 1 || request.count(http::field::content_length) > 1)
    refuse("the request has a field twice that may be there once");
  if (request.count(http::field::transfer_encoding) > 0 && !request.chunked())
    refuse("of transfer encodings, only chunked is known here");
}

}  // namespace

Connection::Connection(net::ip::tcp::socket socket, std::string peer, Server& server)
    : stream_(std::move(socket)),
      buffer_(server.limits_.header_bytes + 65536),
      peer_(std::move(peer)),
      server_(server),
      idle_since_(std::chrono::steady_clock::now()) {}

void Connection::close() {
  is_gone_ = true;
  error_code ignored;
  stream_.socket().close(ignored);
}

net::awaitable<void> Connection::run() {
  const auto self = shared_from_this();
  try {
    co_await serve();
  } catch (const std::exception& error) {
    fmt::print(stderr, "wan_serve: a connection failed: {}\n", error.what());
    close();
  }
  server_.remove(*this);
}

net::awaitable<void> Connection::serve() {
  for (bool is_kept = true; is_kept && !is_gone_;) {
    idle_since_ = std::chrono::steady_clock::now();
    auto request = co_await read();
    if (!request) break;
    idle_since_.reset();
    const bool wants_more = request->keep_alive() && !server_.is_stopping_;
    is_kept = co_await send(*request, answer_to(*request)) && wants_more;
  }
  if (!is_gone_) co_await linger();
}

net::awaitable<void> Connection::refuse() {
  const auto self = shared_from_this();
  Request request;
  request.version(11);
  request.keep_alive(false);
  co_await send(request, too_many());
  co_await linger();
}

/// The next request; none where the connection is over. What is not one, it answers.
net::awaitable<std::optional<Request>> Connection::read() {
  const auto& limits = server_.limits_;
  http::request_parser<http::string_body> parser;
  parser.header_limit(static_cast<uint32_t>(limits.header_bytes));
  parser.body_limit(limits.body_bytes);
  error_code error;
  std::optional<Refusal> refusal;
  if (buffer_.size() == 0) {  // between requests a client may take its time
    stream_.expires_after(has_served_ ? limits.idle : limits.header);
    const auto room = buffer_.prepare(4096);
    const auto bytes = co_await stream_.async_read_some(room, no_throw(error));
    if (error) co_return std::nullopt;
    buffer_.commit(bytes);
  }
  has_served_ = true;
  stream_.expires_after(limits.header);
  co_await http::async_read_header(stream_, buffer_, parser, no_throw(error));
  if (error == http::error::end_of_stream) co_return std::nullopt;
  if (!error) {
    try {
      check_header(parser.get(), limits);
    } catch (const Refusal& found) {
      refusal = found;
    }
  }
  if (!error && !refusal && !parser.is_done()) {
    stream_.expires_after(limits.body);
    if (beast::iequals(parser.get()[http::field::expect], "100-continue")) {
      http::response<http::empty_body> go_on{http::status::continue_, 11};
      co_await http::async_write(stream_, go_on, no_throw(error));
    }
    if (!error) co_await http::async_read(stream_, buffer_, parser, no_throw(error));
  }
  if (!error && !refusal) co_return parser.release();
  const bool is_lost = error == net::error::connection_reset || error == net::error::operation_aborted ||
                       error == beast::error::timeout;  // which has closed it
  if (is_lost || is_gone_) co_return std::nullopt;
  if (!refusal) refusal = refusal_of(error, limits);
  Request request;
  request.version(11);
  request.keep_alive(false);
  idle_since_.reset();
  co_await send(request, answer_of(*refusal));
  co_return std::nullopt;
}

Answer Connection::answer_to(const Request& request) {
  try {
    return server_.handler_(request, peer_);
  } catch (const Refusal& refusal) {
    return answer_of(refusal);
  } catch (const std::exception& error) {
    fmt::print(stderr, "wan_serve: a request failed: {}\n", error.what());
    return answer_of(
        Refusal(http::status::internal_server_error, "internal_error", "the server failed at this request"));
  }
}

template <class Body>
void Connection::prepare(http::response<Body>& response, const Answer& answer, bool is_kept) {
  response.set(http::field::server, "wan_serve");
  response.set("X-Content-Type-Options", "nosniff");
  response.set("Referrer-Policy", "no-referrer");
  response.set("Content-Security-Policy",
               "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; object-src 'none'; "
               "base-uri 'none'; form-action 'self'; frame-ancestors 'none'");
  response.set("Cross-Origin-Resource-Policy", "same-origin");
  if (!answer.headers.contains("Cache-Control")) response.set(http::field::cache_control, "no-store");
  if (!answer.type.empty()) response.set(http::field::content_type, answer.type);
  for (const auto& [name, value] : answer.headers) response.set(name, value);
  response.keep_alive(is_kept);
  ++server_.answers_[static_cast<unsigned>(answer.status)];
}

/// Whether the connection can go on.
net::awaitable<bool> Connection::send(const Request& request, Answer answer) {
  error_code error;
  bool is_kept = request.keep_alive() && !server_.is_stopping_;
  if (auto* later = std::get_if<LaterBody>(&answer.body)) {
    auto next = co_await await_answer(*later);
    if (!next) co_return false;
    answer = std::move(*next);
    is_kept = false;  // what was read meanwhile is lost
  }
  if (auto* events = std::get_if<EventsBody>(&answer.body)) {
    const auto subscription = events->subscription;
    co_await send_events(answer, *subscription);
    co_return false;
  }
  if (auto* file = std::get_if<FileBody>(&answer.body)) {
    const auto body = *file;
    const bool is_sent = co_await send_file(request, answer, body);
    co_return is_sent&& is_kept;
  }
  auto& text = std::get<std::string>(answer.body);
  stream_.expires_after(server_.limits_.write);
  if (request.method() == http::verb::head) {
    http::response<http::empty_body> response{answer.status, request.version()};
    prepare(response, answer, is_kept);
    response.content_length(text.size());
    co_await http::async_write(stream_, response, no_throw(error));
  } else {
    http::response<http::string_body> response{answer.status, request.version()};
    prepare(response, answer, is_kept);
    response.body() = std::move(text);
    response.prepare_payload();
    co_await http::async_write(stream_, response, no_throw(error));
  }
  co_return !error && is_kept;
}

net::awaitable<bool> Connection::send_file(const Request& request, const Answer& answer,
                                           const FileBody& body) {
  error_code error;
  http::response<http::empty_body> response{answer.status, request.version()};
  std::ifstream in(body.path, std::ios::binary);
  in.seekg(static_cast<std::streamoff>(body.first));
  if (!in) {
    co_return co_await send(request, answer_of(Refusal(http::status::gone, "expired", "the file is gone")));
  }
  prepare(response, answer, request.keep_alive());
  response.content_length(body.length);
  stream_.expires_after(server_.limits_.write);
  co_await http::async_write(stream_, response, no_throw(error));
  if (request.method() == http::verb::head) co_return !error;
  constexpr uint64_t kAtOnce = 256 * 1024;
  std::vector<char> bytes(std::min(kAtOnce, body.length));
  for (uint64_t left = body.length; left > 0 && !error;) {
    in.read(bytes.data(), static_cast<std::streamsize>(std::min<uint64_t>(left, bytes.size())));
    const auto read = static_cast<uint64_t>(in.gcount());
    if (read == 0) co_return false;  // it became shorter: the client sees that the end is missing
    stream_.expires_after(server_.limits_.write);
    co_await net::async_write(stream_, net::buffer(bytes.data(), read), no_throw(error));
    left -= read;
  }
  co_return !error;
}

net::awaitable<void> Connection::send_events(const Answer& answer, Subscription& subscription) {
  constexpr std::chrono::seconds kQuiet{15};
  error_code error;
  http::response<http::empty_body> response{answer.status, 11};
  prepare(response, answer, false);
  stream_.expires_after(server_.limits_.write);
  co_await http::async_write(stream_, response, no_throw(error));
  stream_.expires_never();
  net::co_spawn(stream_.get_executor(), watch(std::get<EventsBody>(answer.body).subscription), net::detached);
  std::string text = "retry: 1000\n\n";
  while (!error && !is_gone_) {
    while (auto event = subscription.take()) text += *event;
    if (!text.empty()) {
      stream_.expires_after(server_.limits_.write);
      co_await net::async_write(stream_, net::buffer(text), no_throw(error));
      text.clear();
    }
    if (subscription.is_over()) break;
    const auto before = std::chrono::steady_clock::now();
    co_await subscription.wait(kQuiet);
    if (std::chrono::steady_clock::now() - before >= kQuiet) text = ": still here\n\n";
  }
}

/// The answer that comes later; none where the client has gone.
net::awaitable<std::optional<Answer>> Connection::await_answer(const LaterBody& later) {
  stream_.expires_never();
  net::co_spawn(stream_.get_executor(), watch(later.subscription), net::detached);
  while (!is_gone_) {
    if (auto answer = later.answer()) co_return std::move(answer);
    while (later.subscription->take()) {
    }
    co_await later.subscription->wait(std::chrono::seconds(15));
  }
  later.gone();
  co_return std::nullopt;
}

/// Notices that the client has gone, while nothing is expected of it.
net::awaitable<void> Connection::watch(std::shared_ptr<Subscription> subscription) {
  const auto self = shared_from_this();
  char bytes[256];
  error_code error;
  while (!error) co_await stream_.socket().async_read_some(net::buffer(bytes), no_throw(error));
  is_gone_ = true;
  subscription->wake();
}

/// Ends the connection so that the client can read to the end what it was told last: a close with unread
/// bytes would take that away.
net::awaitable<void> Connection::linger() {
  constexpr size_t kMost = 1 << 20;
  error_code error;
  stream_.socket().shutdown(net::ip::tcp::socket::shutdown_send, error);
  stream_.expires_after(std::chrono::seconds(1));
  std::vector<char> bytes(16384);
  for (size_t read = 0; !error && read < kMost;)
    read += co_await stream_.async_read_some(net::buffer(bytes), no_throw(error));
  close();
}

}  // namespace wan::serve
