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

/// The options of wan_serve.
struct ServeOptions {
  std::optional<std::string> answer;  ///< printed instead of serving, for example for --help

  std::string host = "127.0.0.1";
  uint16_t port = 7860;
  std::filesystem::path data_dir = "wan_serve_data";
  int64_t queue = 32;
  double quota_gib = 10;
  std::map<std::string, std::string> keys;  ///< by owner
  std::vector<std::string> hosts;           ///< further host names for requests
  std::string cors_origin;
  std::optional<bool> offload_model;
  Flags job;        ///< flags of wan_t2v: the defaults of jobs
  Options machine;  ///< parsed from the same flags: a stand-in for jobs to come
};

/// Parses the words after the program's name. Throws UsageError.
ServeOptions parse_serve_options(const std::vector<std::string>& words);

/// For --help, --man and --completion of wan_serve.
About about_wan_serve();

}  // namespace wan::serve
