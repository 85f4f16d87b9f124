#pragma once
#include <nlohmann/json.hpp>
#include <string>

#include "wan/serve/feed.hpp"
#include "wan/serve/http/answer.hpp"
#include "wan/serve/http/guard.hpp"
#include "wan/serve/http/server.hpp"
#include "wan/serve/http/target.hpp"
#include "wan/serve/jobs.hpp"
#include "wan/serve/planner.hpp"
#include "wan/serve/status.hpp"

namespace wan::serve {

/// The HTTP API: docs/serve.md documents it, openapi.json has its schema. Runs on the server's thread.
class Api {
 public:
  struct Parts {
    Jobs& jobs;
    Status& status;
    Planner& planner;
    Feed& feed;
    Guard& guard;
    Server& server;
  };
  explicit Api(Parts parts) : parts_(parts) {}

  /// Throws Refusal.
  Answer answer(const Request& request);
  nlohmann::json status_view() const;

 private:
  Answer route(const Request& request, const Target& target);
  Answer videos(const Request& request, const Target& target, const std::string& owner);
  Answer video(const Request& request, const Target& target, const std::string& owner);
  Answer create(const Request& request, const std::string& owner, bool is_sync);
  Answer list(const Target& target, const std::string& owner) const;
  Answer content(const Request& request, const Target& target, const std::string& owner) const;
  Answer file_of(const Request& request, const Record& record, const std::string& variant,
                 bool is_download) const;
  Answer events(const std::string& owner, const std::optional<std::string>& id);
  Answer plan(const Request& request, const Target& target) const;
  Answer models(const Target& target) const;
  Answer history(const Target& target, const std::string& owner) const;
  Answer session(const Request& request) const;
  Answer page(const Request& request, const Target& target) const;
  Answer health() const;
  Answer ready() const;
  nlohmann::json capabilities() const;

  Parts parts_;
};

/// The body of a request, as a JSON object: JSON, or a form. Throws Refusal.
nlohmann::json body_in(const Request& request);

}  // namespace wan::serve
