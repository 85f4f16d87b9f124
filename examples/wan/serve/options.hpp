#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "wan/cli/options.hpp"
#include "wan/serve/record.hpp"

namespace wan::serve {

/// What the user of wan_serve asks for.
struct ServeOptions {
  std::optional<std::string> answer;  ///< what the program is to print instead of serving: its help, say

  std::string host = "127.0.0.1";
  uint16_t port = 7860;
  std::filesystem::path data_dir = "wan_serve_data";
  int64_t queue = 32;
  double quota_gib = 10;
  std::map<std::string, std::string> keys;  ///< by owner
  std::vector<std::string> hosts;           ///< names beside its own that requests may be addressed to
  std::string cors_origin;
  std::optional<bool> offload_model;
  Flags job;        ///< the flags of wan_t2v that each job has where it does not say otherwise
  Options machine;  ///< the same, read: a job that stands for all until one comes
};

/// Options of the words after the program's name. Throws UsageError.
ServeOptions parse_serve_options(const std::vector<std::string>& words);

/// What --help, --man and --completion tell of wan_serve.
About about_wan_serve();

}  // namespace wan::serve
