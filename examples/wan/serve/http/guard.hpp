#pragma once
#include <map>
#include <set>
#include <string>

#include "wan/serve/http/answer.hpp"

namespace wan::serve {

/// Access control: rejects requests that are made by another site's page, or addressed to another host name,
/// and, if there are keys, those without one.
class Guard {
 public:
  struct Options {
    std::map<std::string, std::string> keys;  ///< by owner; if empty, no key is needed
    std::set<std::string> hosts;              ///< host names for requests, in addition to IP addresses
    std::string cors_origin;                  ///< another origin whose pages may send requests
  };
  explicit Guard(Options options);

  /// Throws Refusal for a request that is not addressed to this server, or made by another site's page.
  void check_origin(const Request& request) const;
  /// The owner of the request's key or session. Throws Refusal without one, if there are keys.
  std::string owner_of(const Request& request) const;

  bool has_keys() const { return !options_.keys.empty(); }
  /// The headers of a response that starts a session with this key. Throws Refusal for a wrong key.
  std::map<std::string, std::string> session_for(const std::string& key) const;
  static std::map<std::string, std::string> end_of_session();
  /// The headers that let a page of the allowed origin read the response.
  std::map<std::string, std::string> cors_for(const Request& request) const;

 private:
  std::string owner_by(const std::map<std::string, std::string>& secrets, const std::string& secret) const;

  Options options_;
  std::map<std::string, std::string> sessions_;  // by owner, generated at each start
};

}  // namespace wan::serve
