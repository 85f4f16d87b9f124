#include "wan/serve/options.hpp"

#include <fmt/format.h>

#include <boost/asio/ip/address.hpp>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "wan/cli/flag.hpp"
#include "wan/cli/words.hpp"
#include "wan/serve/fields.hpp"

namespace wan::serve {
namespace po = boost::program_options;
namespace {

constexpr unsigned kLineLength = 100;
constexpr Count kPort = {0, 65535, "ports are numbers of 16 bits", "7860"};
constexpr Count kQueue = {1, 100000, "each waiting job is kept in memory", "32"};
constexpr Amount kQuota = {0.001, 1e6, "it is in GiB", "10"};
constexpr size_t kShortestKey = 8, kLongestKey = 256;

/// Flags of wan_t2v that are a job's own business, or make no sense for one of many.
const std::set<std::string> kNotHere = {"prompt",       "prompt_file",        "save_file", "contact_sheet",
                                        "save_tensors", "data_parallel_size", "noise",     "serve",
                                        "stats",        "base_seed",          "trace"};

po::options_description server_flags() {
  po::options_description server("Server", kLineLength);
  server.add_options()                                                                                //
      ("server_port", text("N", "7860"), "port; 0: any that is free")                                 //
      ("server_host", text("ADDRESS", "127.0.0.1"), "address; any other wants a key")                 //
      ("data_dir", text("DIR", "wan_serve_data"), "records and videos")                               //
      ("queue", text("N", "32"), "jobs that may wait")                                                //
      ("quota_gib", text("X", "10"), "GiB of videos on the disk; the oldest go first")                //
      ("api_key_file", text("FILE"), "keys, a line each: KEY, or OWNER:KEY (or $WAN_SERVE_API_KEY)")  //
      ("allow_host", text("NAMES"), "names that requests may be addressed to, by commas")             //
      ("cors_origin", text("URL"), "another origin whose pages may ask")                              //
      ("offload_model", text("BOOL"), "load networks for each job (default: on one GPU only)");
  return server;
}

po::options_description job_flags() {
  po::options_description jobs("Machine, and defaults of jobs", kLineLength);
  for (const auto& section : wan::sections())
    for (const auto& option : section.options())
      if (!kNotHere.contains(option->long_name())) jobs.add(option);
  return jobs;
}

po::options_description flags() {
  po::options_description all(kLineLength);
  all.add(server_flags()).add(job_flags()).add(config_flags()).add(about_flags());
  return all;
}

void add_key(ServeOptions& options, const std::string& line, const std::string& from) {
  const auto colon = line.find(':');
  const auto owner = colon == std::string::npos ? "default" : line.substr(0, colon);
  const auto key = colon == std::string::npos ? line : line.substr(colon + 1);
  if (key.size() < kShortestKey || key.size() > kLongestKey)
    refuse("{} holds a key of {} letters; a key has {} to {}", from, key.size(), kShortestKey, kLongestKey);
  if (!options.keys.emplace(owner, key).second)
    refuse("{} holds two keys of '{}'; give each an owner, as in ann:KEY", from, owner);
}

void read_keys(const Words& words, ServeOptions& options) {
  if (const auto* key = std::getenv("WAN_SERVE_API_KEY"); key && *key)
    add_key(options, key, "WAN_SERVE_API_KEY");
  if (!words.has("api_key_file")) return;
  const auto file = words.text("api_key_file");
  std::ifstream in(file);
  if (!in) refuse("--api_key_file {} cannot be read; give a file with a key on each line", file);
  for (std::string line; std::getline(in, line);) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty() && line[0] != '#') add_key(options, line, "--api_key_file " + file);
  }
  if (options.keys.empty()) refuse("--api_key_file {} holds no key; write one on a line", file);
}

void read_host(const Words& words, ServeOptions& options) {
  options.host = words.text("server_host");
  boost::system::error_code error;
  const auto address = boost::asio::ip::make_address(options.host, error);
  if (error)
    refuse("--server_host {} is not an address; write 127.0.0.1, or 0.0.0.0 for all of this host",
           options.host);
  if (!address.is_loopback() && options.keys.empty())
    refuse(
        "--server_host {} is reached from elsewhere, and there is no key; give --api_key_file FILE, or stay "
        "with "
        "127.0.0.1",
        options.host);
  std::istringstream names(words.text("allow_host"));
  for (std::string name; std::getline(names, name, ',');)
    if (!name.empty()) options.hosts.push_back(name);
}

}  // namespace

ServeOptions parse_serve_options(const std::vector<std::string>& arguments) {
  const Words words(arguments, flags(), "wan_serve", "negative_prompt");
  ServeOptions options;
  if (options.answer = answer_of(words, about_wan_serve()); options.answer) return options;

  words.require("ckpt_dir", "Wan2.1-T2V-1.3B");
  options.port = static_cast<uint16_t>(*words.count("server_port", kPort));
  options.data_dir = words.text("data_dir");
  options.queue = *words.count("queue", kQueue);
  options.quota_gib = *words.amount("quota_gib", kQuota);
  options.cors_origin = words.text("cors_origin");
  options.offload_model = words.truth("offload_model");
  read_keys(words, options);
  read_host(words, options);

  options.job = words.given();
  options.job.erase("config");
  const auto own = server_flags();
  for (const auto& option : own.options()) options.job.erase(option->long_name());
  auto some_job = options.job;
  some_job["prompt"] = "-";
  options.machine = parse_options(words_of(some_job));
  return options;
}

About about_wan_serve() {
  return {"wan_serve", "a web page and an HTTP API for videos, on rank 0; the others wait for work",
          "  wan_serve --ckpt_dir DIR --local_ranks 2\n"
          "  torchrun --no-python --nproc-per-node 4 wan_serve --ckpt_dir DIR\n",
          flags()};
}

}  // namespace wan::serve
