#pragma once
#include <boost/asio/awaitable.hpp>
#include <memory>
#include <string>

#include "wan/serve/api.hpp"
#include "wan/serve/feed.hpp"
#include "wan/serve/http/guard.hpp"
#include "wan/serve/http/server.hpp"
#include "wan/serve/jobs.hpp"
#include "wan/serve/options.hpp"
#include "wan/serve/planner.hpp"
#include "wan/serve/status.hpp"

namespace wan::serve {

/// What rank 0 has for its callers: the queue of jobs, and the HTTP server, which is there before the first
/// weight is read.
class HttpFrontend {
 public:
  /// Listens from now on. Throws Error where the folder or the port cannot be had.
  HttpFrontend(const ServeOptions& options, const std::string& version);
  ~HttpFrontend();

  Jobs& jobs() { return jobs_; }
  Status& status() { return status_; }
  Planner& planner() { return planner_; }
  /// Where callers find it.
  const std::string& url() const { return url_; }

  /// Those who still listen hear the last events; then nobody is answered any more.
  void close();

 private:
  /// A folder that one server has at a time.
  class Lock {
   public:
    explicit Lock(const std::filesystem::path& folder);
    ~Lock();
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    int file_;
  };

  boost::asio::awaitable<void> tell_status();

  Lock lock_;
  Status status_;
  Planner planner_;
  Server server_;
  Feed feed_;
  Jobs jobs_;
  Guard guard_;
  Api api_;
  std::string url_;
};

}  // namespace wan::serve
