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

/// The part of the server that only rank 0 has: the queue of jobs, and the HTTP server, which is up before
/// the first weight is read.
class HttpFrontend {
 public:
  /// Starts to listen. Throws Error if the folder or the port is not available.
  HttpFrontend(const ServeOptions& options, const std::string& version);
  ~HttpFrontend();

  Jobs& jobs() { return jobs_; }
  Status& status() { return status_; }
  Planner& planner() { return planner_; }
  /// The address of the page and the API.
  const std::string& url() const { return url_; }

  /// Sends the last events to subscribers, and stops the HTTP server.
  void close();

 private:
  /// Locks a data folder for one server.
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
