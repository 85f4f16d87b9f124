#include "wan/serve/http/guard.hpp"

#include <fmt/format.h>

#include <boost/asio/ip/address.hpp>
#include <random>

#include "wan/serve/http/refusal.hpp"

namespace wan::serve {
namespace {

constexpr const char* kCookie = "wan_serve_session";

/// Takes as long wherever they differ.
bool are_equal(const std::string& one, const std::string& other) {
  unsigned difference = one.size() == other.size() ? 0 : 1;
  for (size_t i = 0; i < one.size(); ++i) {
    const auto letter = other.empty() ? '\0' : other[i % other.size()];
    difference |= static_cast<unsigned char>(one[i] ^ letter);
  }
  return difference == 0;
}

std::string small_letters(std::string text) {
  for (auto& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}

/// The name in `name:port`; an address of IPv6 stands in brackets.
std::string name_in(const std::string& host) {
  if (host.starts_with('[')) return host.substr(1, std::min(host.find(']'), host.size()) - 1);
  return host.substr(0, host.find(':'));
}

/// The value of a cookie.
std::string cookie_in(const std::string& header) {
  const auto mark = std::string(kCookie) + "=";
  for (size_t at = 0; at < header.size();) {
    const auto end = std::min(header.find(';', at), header.size());
    const auto begin = std::min(header.find_first_not_of(' ', at), end);
    if (header.compare(begin, mark.size(), mark) == 0)
      return header.substr(begin + mark.size(), end - begin - mark.size());
    at = end + 1;
  }
  return {};
}

bool is_safe(http::verb method) {
  return method == http::verb::get || method == http::verb::head || method == http::verb::options;
}

}  // namespace

Guard::Guard(Options options) : options_(std::move(options)) {
  std::random_device random;
  for (const auto& [owner, key] : options_.keys)
    sessions_[owner] = fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
}

void Guard::check_origin(const Request& request) const {
  const std::string host(request[http::field::host]);
  if (host.empty() && request.version() == 11)
    throw Refusal(http::status::bad_request, "invalid_request", "the request has no Host");
  const auto name = small_letters(name_in(host));
  boost::system::error_code is_no_address;
  boost::asio::ip::make_address(name, is_no_address);
  // A name that leads here may be another site's, which its pages may then read; an address may not.
  if (is_no_address && !host.empty() && !options_.hosts.contains(name))
    throw Refusal(
        http::status::forbidden, "host_not_allowed",
        "the request is addressed to a name that is not this server's; ask for its address, or start it "
        "with --allow_host");
  if (is_safe(request.method())) return;
  const std::string origin(request[http::field::origin]);
  const bool is_own = origin == "http://" + host || origin == "https://" + host;
  if (request.count(http::field::origin) > 0 && !is_own && origin != options_.cors_origin)
    throw Refusal(
        http::status::forbidden, "origin_not_allowed",
        "the request is made by the page of another site; start the server with --cors_origin to let it");
}

std::string Guard::owner_by(const std::map<std::string, std::string>& secrets,
                            const std::string& secret) const {
  std::string owner;
  for (const auto& [name, known] : secrets)
    if (are_equal(secret, known)) owner = name;
  return owner;
}

std::string Guard::owner_of(const Request& request) const {
  if (!has_keys()) return {};
  const std::string bearer(request[http::field::authorization]);
  constexpr std::string_view kBearer = "Bearer ";
  auto owner =
      bearer.starts_with(kBearer) ? owner_by(options_.keys, bearer.substr(kBearer.size())) : std::string();
  if (owner.empty()) owner = owner_by(sessions_, cookie_in(std::string(request[http::field::cookie])));
  if (owner.empty())
    throw Refusal(http::status::unauthorized, "invalid_api_key",
                  "the request has no key of this server; send it as in Authorization: Bearer KEY", "",
                  {{"WWW-Authenticate", "Bearer"}});
  return owner;
}

std::map<std::string, std::string> Guard::session_for(const std::string& key) const {
  const auto owner = owner_by(options_.keys, key);
  if (owner.empty())
    throw Refusal(http::status::unauthorized, "invalid_api_key", "this is not a key of this server", "token");
  return {
      {"Set-Cookie", fmt::format("{}={}; HttpOnly; SameSite=Strict; Path=/", kCookie, sessions_.at(owner))}};
}

std::map<std::string, std::string> Guard::end_of_session() {
  return {{"Set-Cookie", fmt::format("{}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0", kCookie)}};
}

std::map<std::string, std::string> Guard::cors_for(const Request& request) const {
  if (options_.cors_origin.empty() || request[http::field::origin] != options_.cors_origin) return {};
  return {{"Access-Control-Allow-Origin", options_.cors_origin},
          {"Access-Control-Allow-Methods", "GET, POST, DELETE"},
          {"Access-Control-Allow-Headers", "Authorization, Content-Type"},
          {"Access-Control-Expose-Headers", "X-Video-Id, Retry-After"},
          {"Vary", "Origin"}};
}

}  // namespace wan::serve
