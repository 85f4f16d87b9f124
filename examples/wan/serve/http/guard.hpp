#pragma once
#include <map>
#include <set>
#include <string>

#include "wan/serve/http/answer.hpp"

namespace wan::serve {

/// Who may ask for what: requests that another site's page makes, or that came here by another name, are
/// refused, and where there are keys those without one.
class Guard {
 public:
  struct Options {
    std::map<std::string, std::string> keys;  ///< by owner; without any nobody is asked
    std::set<std::string> hosts;              ///< names that requests may be addressed to, beside addresses
    std::string cors_origin;                  ///< another origin whose pages may ask
  };
  explicit Guard(Options options);

  /// Throws Refusal for a request that is not addressed to this server, or is made by another site's page.
  void check_origin(const Request& request) const;
  /// Whose request it is: the owner of its key or session. Throws Refusal without one, where there are keys.
  std::string owner_of(const Request& request) const;

  bool has_keys() const { return !options_.keys.empty(); }
  /// The headers of an answer that begins a session for who has this key. Throws Refusal for another key.
  std::map<std::string, std::string> session_for(const std::string& key) const;
  static std::map<std::string, std::string> end_of_session();
  /// The headers by which a page of another origin may read the answer.
  std::map<std::string, std::string> cors_for(const Request& request) const;

 private:
  std::string owner_by(const std::map<std::string, std::string>& secrets, const std::string& secret) const;

  Options options_;
  std::map<std::string, std::string> sessions_;  // by owner, made anew with each start
};

}  // namespace wan::serve
