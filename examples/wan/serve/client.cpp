#include "wan/serve/client.hpp"

#include <fmt/format.h>
#include <fmt/ostream.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <ostream>
#include <regex>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/files/part_file.hpp>

#include "wan/serve/fields.hpp"
#include "wan/serve/signals.hpp"

namespace wan::serve {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::asio::awaitable;
using boost::asio::use_awaitable;
using nlohmann::json;

/// A server sends something each fifteen seconds, if only that it is there.
constexpr std::chrono::seconds kToConnect{10}, kToHear{60};

/// One who asks a server: each request by a connection of its own.
class Client {
 public:
  explicit Client(const std::string& url) : url_(url) {
    static const std::regex form(R"(http://(\[[0-9a-fA-F:]+\]|[^/:\[\]]+)(?::([0-9]{1,5}))?/?)");
    std::smatch parts;
    if (!std::regex_match(url, parts, form))
      throw wanpar::Error(fmt::format(
          "--serve {} is not the address of a server; write it as in http://127.0.0.1:7860", url));
    host_ = parts[1];
    port_ = parts[2].matched ? parts[2].str() : "80";
  }

  /// The answer's body. Throws Error for one that is no success.
  std::string ask(http::verb method, const std::string& target, const json& body = {}) const {
    std::string text;
    const auto status = run(method, target, body, [&](std::string_view part) { text += part; });
    if (status / 100 == 2) return text;
    fail(target, status, text);
  }

  /// The parts of a long answer, as they come.
  void listen(const std::string& target, const std::function<void(std::string_view)>& heard) const {
    std::string text;
    bool is_first = true;
    const auto status = run(http::verb::get, target, {}, [&](std::string_view part) {
      if (is_first) text = part.substr(0, 4096);
      is_first = false;
      heard(part);
    });
    if (status / 100 != 2) fail(target, status, text);
  }

 private:
  [[noreturn]] void fail(const std::string& target, unsigned status, const std::string& body) const {
    const auto answer = json::parse(body, nullptr, false);
    if (answer.is_object() && answer.contains("error"))
      throw wanpar::Error(fmt::format("{}: {}", url_, answer["error"].value("message", "it failed")));
    throw wanpar::Error(
        fmt::format("{}: {} is answered by status {}; is it a wan_serve?", url_, target, status));
  }

  unsigned run(http::verb method, const std::string& target, const json& body,
               const std::function<void(std::string_view)>& heard) const {
    boost::asio::io_context io;
    auto done = boost::asio::co_spawn(io, talk(io, method, target, body, heard), boost::asio::use_future);
    io.run();
    try {
      return done.get();
    } catch (const boost::system::system_error& error) {
      throw wanpar::Error(fmt::format("{}: {}; is a wan_serve there?", url_, error.code().message()));
    }
  }

  awaitable<unsigned> talk(boost::asio::io_context& io, http::verb method, const std::string& target,
                           const json& body, const std::function<void(std::string_view)>& heard) const {
    boost::asio::ip::tcp::resolver resolver(io);
    const auto name = host_.starts_with('[') ? host_.substr(1, host_.size() - 2) : host_;
    const auto found = co_await resolver.async_resolve(name, port_, use_awaitable);
    beast::tcp_stream stream(io);
    stream.expires_after(kToConnect);
    co_await stream.async_connect(found, use_awaitable);
    http::request<http::string_body> request{method, target, 11};
    request.set(http::field::host, host_ + ":" + port_);
    if (const auto* key = std::getenv("WAN_SERVE_API_KEY"); key && *key)
      request.set(http::field::authorization, fmt::format("Bearer {}", key));
    if (!body.is_null())
      request.set(http::field::content_type, "application/json"), request.body() = body.dump();
    request.prepare_payload();
    request.keep_alive(false);
    stream.expires_after(kToHear);
    co_await http::async_write(stream, request, use_awaitable);
    beast::flat_buffer buffer;
    http::response_parser<http::string_body> parser;
    parser.body_limit(std::numeric_limits<uint64_t>::max());
    co_await http::async_read_header(stream, buffer, parser, use_awaitable);
    while (!parser.is_done()) {
      stream.expires_after(kToHear);
      co_await http::async_read_some(stream, buffer, parser, use_awaitable);
      if (auto& part = parser.get().body(); !part.empty()) heard(part), part.clear();
    }
    co_return parser.get().result_int();
  }

  std::string url_, host_, port_;
};

/// Calls back with the data of each event of a kind, however the stream is cut.
class EventReader {
 public:
  EventReader(std::string kind, std::function<void(const json&)> heard)
      : kind_("event: " + std::move(kind)), heard_(std::move(heard)) {}

  void operator()(std::string_view part) {
    text_ += part;
    for (auto end = text_.find("\n\n"); end != std::string::npos; end = text_.find("\n\n")) {
      const auto event = text_.substr(0, end);
      text_.erase(0, end + 2);
      constexpr std::string_view kData = "\ndata: ";
      const auto data = event.find(kData);
      if (event.substr(0, event.find('\n')) == kind_ && data != std::string::npos)
        heard_(json::parse(event.substr(data + kData.size())));
    }
  }

 private:
  std::string kind_, text_;
  std::function<void(const json&)> heard_;
};

/// Shows a person what the views of a job say.
class Shown {
 public:
  explicit Shown(std::ostream& out) : out_(out), progress_(out, style_of(STDERR_FILENO)) {}

  void operator()(const json& job) {
    if (job.at("status") == "queued") {
      const auto place = job.value("queue_position", int64_t{0});
      if (place != place_) fmt::print(out_, "waits, {} in the queue\n", place), out_.flush();
      place_ = place;
    }
    if (!job.at("phase").is_string()) return;
    const auto phase = job.at("phase").get<std::string>();
    const auto step = job.at("step").get<int64_t>(), steps = job.at("steps").get<int64_t>();
    if (phase != phase_) progress_.start(phase, steps);
    if (step > 0 && (phase != phase_ || step != step_)) progress_.update(step);
    phase_ = phase, step_ = step;
  }

 private:
  std::ostream& out_;
  ShownProgress progress_;
  std::string phase_;
  int64_t place_ = -1, step_ = 0;
};

void bring(const Client& client, const std::string& target, const wanpar::PartFile& file) {
  std::ofstream out(file.part(), std::ios::binary);
  client.listen(target, [&](std::string_view part) {
    out.write(part.data(), static_cast<std::streamsize>(part.size()));
  });
  out.close();
  if (!out) wanpar::throw_write_error(file.path(), "the disk refused");
}

}  // namespace

void make_at(const std::string& url, const Flags& flags, const WantedFiles& files, std::ostream& out,
             std::ostream& results) {
  const Client client(url);
  const auto body = body_of(flags);
  for (const auto& file : {files.video, files.contact_sheet, files.tensors})
    if (!file.empty()) wanpar::check_writable(file, 1 << 20);
  std::mutex mutex;
  std::string id;
  const auto cancel = [&](int signal) {
    std::lock_guard lock(mutex);
    try {
      if (!id.empty()) client.ask(http::verb::post, "/v1/videos/" + id + "/cancel");
    } catch (const std::exception&) {  // then it goes on there
    }
    end_by(signal);
  };
  const Signals signals(cancel, [](int signal) { end_by(signal); });
  {
    std::lock_guard lock(mutex);
    id = json::parse(client.ask(http::verb::post, "/v1/videos", body)).at("id");
  }
  const auto video = "/v1/videos/" + id;
  json job;
  Shown shown(out);
  client.listen(video + "/events", EventReader("job", [&](const json& view) { shown(job = view); }));
  job = json::parse(client.ask(http::verb::get, video));
  const auto status = job.at("status").get<std::string>();
  if (status != "completed")
    throw wanpar::Error(
        fmt::format("{}: {} is {}{}", url, id, status,
                    job.at("error").is_null() ? "" : ": " + job["error"].value("message", "")));
  const auto name = files.video.empty() ? std::filesystem::path(id + ".mp4") : files.video;
  std::vector<wanpar::PartFile> parts;
  const auto content = video + "/content?variant=";
  bring(client, content + "video", parts.emplace_back(name));
  if (!files.contact_sheet.empty())
    bring(client, content + "spritesheet", parts.emplace_back(files.contact_sheet));
  if (!files.tensors.empty()) bring(client, content + "tensors", parts.emplace_back(files.tensors));
  wanpar::commit_all(std::move(parts));
  results << name.string() + "\n" << std::flush;
}

}  // namespace wan::serve
