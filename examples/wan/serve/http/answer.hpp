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

/// A file, or the part of it that was asked for.
struct FileBody {
  std::filesystem::path path;
  uint64_t first, length;
};

class Subscription;

/// Events from now on, until `is_last` says so of one, or the client goes.
struct EventsBody {
  std::shared_ptr<Subscription> subscription;
};

struct Answer;

/// Another answer that is to come; `gone` is called where the client does not wait for it.
struct LaterBody {
  std::shared_ptr<Subscription> subscription;     ///< wakes when there may be one
  std::function<std::optional<Answer>()> answer;  ///< nothing as long as there is none
  std::function<void()> gone;
};

/// What a request is answered with.
struct Answer {
  http::status status = http::status::ok;
  std::string type = "application/json";
  std::variant<std::string, FileBody, EventsBody, LaterBody> body = std::string();
  std::map<std::string, std::string> headers = {};
};

}  // namespace wan::serve
