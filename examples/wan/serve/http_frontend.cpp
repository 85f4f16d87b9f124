#include "wan/serve/http_frontend.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <wanpar/core/error.hpp>

namespace wan::serve {
namespace {

namespace fs = std::filesystem;

std::string model_of(const fs::path& ckpt_dir) {
  auto folder = fs::absolute(ckpt_dir).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();
  return folder.filename().string();
}

Guard::Options guard_options(const ServeOptions& options) {
  Guard::Options guard{.keys = options.keys, .hosts = {"localhost"}, .cors_origin = options.cors_origin};
  guard.hosts.insert(options.hosts.begin(), options.hosts.end());
  char name[256] = {};
  if (options.host != "127.0.0.1" && ::gethostname(name, sizeof(name) - 1) == 0) guard.hosts.insert(name);
  return guard;
}

JobsOptions jobs_options(const ServeOptions& options) {
  return {.folder = options.data_dir,
          .capacity = static_cast<size_t>(options.queue),
          .quota_bytes = static_cast<int64_t>(options.quota_gib * (1 << 30)),
          .model = model_of(options.machine.ckpt_dir)};
}

std::string url_of(const ServeOptions& options, uint16_t port) {
  const bool is_v6 = options.host.find(':') != std::string::npos;
  return is_v6 ? fmt::format("http://[{}]:{}/", options.host, port)
               : fmt::format("http://{}:{}/", options.host, port);
}

}  // namespace

HttpFrontend::Lock::Lock(const fs::path& folder) : file_(-1) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (!error) fs::permissions(folder, fs::perms::owner_all, error);
  const auto name = folder / "lock";
  if (!error) file_ = ::open(name.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (file_ < 0)
    throw wanpar::Error(fmt::format("--data_dir {} cannot be used: {}", folder.string(),
                                    error ? error.message() : std::strerror(errno)));
  if (::flock(file_, LOCK_EX | LOCK_NB) == 0) return;
  ::close(file_);
  throw wanpar::Error(fmt::format(
      "--data_dir {} is in use by another wan_serve; end that, or give another folder", folder.string()));
}

HttpFrontend::Lock::~Lock() { ::close(file_); }

HttpFrontend::HttpFrontend(const ServeOptions& options, const std::string& version)
    : lock_(options.data_dir),
      status_(model_of(options.machine.ckpt_dir), version),
      planner_(options.job, status_.model()),
      server_(options.host, options.port, {}),
      feed_(server_.io()),
      jobs_(jobs_options(options), [this](const Event& event) { feed_.publish(event); }),
      guard_(guard_options(options)),
      api_({.jobs = jobs_,
            .status = status_,
            .planner = planner_,
            .feed = feed_,
            .guard = guard_,
            .server = server_}),
      url_(url_of(options, server_.port())) {
  boost::asio::co_spawn(server_.io(), tell_status(), boost::asio::detached);
  server_.serve([this](const Request& request, const std::string&) { return api_.answer(request); });
}

HttpFrontend::~HttpFrontend() { close(); }

void HttpFrontend::close() {
  constexpr std::chrono::milliseconds kGrace{300};
  server_.stop(kGrace);
}

boost::asio::awaitable<void> HttpFrontend::tell_status() {
  boost::asio::steady_timer timer(server_.io());
  for (;;) {
    timer.expires_after(std::chrono::seconds(1));
    co_await timer.async_wait(boost::asio::use_awaitable);
    if (feed_.has_listeners()) feed_.publish({"status", "", "", api_.status_view().dump()});
  }
}

}  // namespace wan::serve
