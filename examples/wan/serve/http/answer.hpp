#pragma once
#include <boost/beast/http.hpp>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>

namespace wan::serve {

namespace http = boost::beast::http;

using Request = http::request<http::string_body>;

/// A file, or a range of it.
struct FileBody {
  std::filesystem::path path;
  uint64_t first, length;
};

class Subscription;

/// Events from now on, until one with `is_last`, or until the client disconnects.
struct EventsBody {
  std::shared_ptr<Subscription> subscription;
};

struct Answer;

/// An answer that comes later; `gone` is called if the client disconnects first.
struct LaterBody {
  std::shared_ptr<Subscription> subscription;     ///< is woken when the answer may be there
  std::function<std::optional<Answer>()> answer;  ///< nullopt until it is there
  std::function<void()> gone;
};

/// The response to a request.
struct Answer {
  http::status status = http::status::ok;
  std::string type = "application/json";
  std::variant<std::string, FileBody, EventsBody, LaterBody> body = std::string();
  std::map<std::string, std::string> headers = {};
};

}  // namespace wan::serve
