#include "wan/serve/api.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <wanpar/core/error.hpp>
#include <wanpar/extend/files/json.hpp>

#include "wan/serve/assets.hpp"
#include "wan/serve/history.hpp"
#include "wan/serve/http/multipart.hpp"
#include "wan/serve/http/range.hpp"
#include "wan/serve/http/refusal.hpp"
#include "wan/serve/metrics.hpp"

namespace wan::serve {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const std::vector<std::string> kStatuses = {"queued", "in_progress", "completed", "failed", "cancelled"};

Answer json_answer(const json& value, http::status status = http::status::ok) {
  return {.status = status, .body = value.dump(-1, ' ', false, json::error_handler_t::replace)};
}

[[noreturn]] void refuse_path(const std::string& path) {
  throw Refusal(http::status::not_found, "not_found",
                fmt::format("there is nothing at {}", path.substr(0, 200)));
}

/// Throws Refusal for a method that is none of these. Who may GET may ask for the HEAD.
void check_method(const Request& request, std::vector<http::verb> allowed) {
  if (std::count(allowed.begin(), allowed.end(), http::verb::get) > 0) allowed.push_back(http::verb::head);
  if (std::count(allowed.begin(), allowed.end(), request.method()) > 0) return;
  std::vector<std::string> names;
  for (const auto verb : allowed) names.emplace_back(http::to_string(verb));
  throw Refusal(http::status::method_not_allowed, "method_not_allowed",
                fmt::format("this takes {}, not {}", fmt::join(names, " or "),
                            std::string(request.method_string()).substr(0, 20)),
                "", {{"Allow", fmt::format("{}", fmt::join(names, ", "))}});
}

std::vector<std::string> statuses_in(const Target& target) {
  std::vector<std::string> statuses;
  std::istringstream words(target.value("status").value_or(""));
  for (std::string word; std::getline(words, word, ',');) {
    if (std::find(kStatuses.begin(), kStatuses.end(), word) == kStatuses.end())
      throw Refusal(http::status::bad_request, "invalid_value",
                    fmt::format("status is '{}'; choose of {}", word, fmt::join(kStatuses, ", ")), "status");
    statuses.push_back(word);
  }
  return statuses;
}

void check_query(const Target& target, const std::vector<std::string>& known) {
  for (const auto& [name, value] : target.query)
    if (std::find(known.begin(), known.end(), name) == known.end())
      throw Refusal(http::status::bad_request, "unknown_field",
                    fmt::format("'{}' is not a field of this query", name), name);
}

std::string type_of(std::string_view name) {
  const auto ending = std::string(name.substr(std::min(name.rfind('.'), name.size())));
  static const std::map<std::string, std::string> types = {{".html", "text/html; charset=utf-8"},
                                                           {".js", "text/javascript; charset=utf-8"},
                                                           {".css", "text/css; charset=utf-8"},
                                                           {".svg", "image/svg+xml"},
                                                           {".png", "image/png"},
                                                           {".woff2", "font/woff2"},
                                                           {".json", "application/json"},
                                                           {".txt", "text/plain; charset=utf-8"},
                                                           {".mp4", "video/mp4"},
                                                           {".safetensors", "application/octet-stream"}};
  const auto found = types.find(ending);
  return found == types.end() ? "application/octet-stream" : found->second;
}

const Asset* asset_named(std::string_view name) {
  const auto all = assets();
  const auto found = std::find_if(all.begin(), all.end(), [&](const Asset& one) { return one.name == name; });
  return found == all.end() ? nullptr : &*found;
}

std::string file_name_of(const std::string& variant) {
  return variant == "video" ? "video.mp4" : variant == "tensors" ? "tensors.safetensors" : variant + ".png";
}

bool is_terminal(const json& view) {
  const auto status = view.at("status").get<std::string>();
  return status != "queued" && status != "in_progress";
}

}  // namespace

json body_in(const Request& request) {
  const std::string type(request[http::field::content_type]);
  const auto media = type.substr(0, type.find(';'));
  if (boost::beast::iequals(media, "multipart/form-data")) {
    json body = json::object();
    for (const auto& [name, text] : form_fields(type, request.body())) {
      try {
        (void)json(text).dump();
      } catch (const json::exception&) {
        throw Refusal(http::status::bad_request, "invalid_form", fmt::format("'{}' is not UTF-8", name),
                      name);
      }
      body[name] = text;
      if (name == "extra_params") body[name] = wanpar::parse_json(text, "extra_params");
    }
    return body;
  }
  if (!boost::beast::iequals(media, "application/json"))
    throw Refusal(http::status::unsupported_media_type, "unsupported_media_type",
                  "the Content-Type must be application/json or multipart/form-data");
  try {
    return wanpar::parse_json(request.body(), "the body");
  } catch (const wanpar::Error& error) {
    throw Refusal(http::status::bad_request, "invalid_json", error.what());
  }
}

Answer Api::answer(const Request& request) {
  const auto with = [&](Answer answer) {
    for (const auto& [name, value] : parts_.guard.cors_for(request)) answer.headers[name] = value;
    return answer;
  };
  try {
    parts_.guard.check_origin(request);
    return with(route(request, Target(std::string_view(request.target().data(), request.target().size()))));
  } catch (const Refusal& refusal) {
    return with(answer_of(refusal));
  }
}

Answer Api::route(const Request& request, const Target& target) {
  const auto& parts = target.parts;
  if (request.method() == http::verb::options) {
    if (parts_.guard.cors_for(request).empty()) check_method(request, {http::verb::get, http::verb::post});
    return {.status = http::status::no_content, .type = ""};
  }
  if (target.path == "/health") return check_method(request, {http::verb::get}), health();
  if (target.path == "/ready") return check_method(request, {http::verb::get}), ready();
  if (target.path == "/metrics") {
    check_method(request, {http::verb::get});
    parts_.guard.owner_of(request);
    return {.type = "text/plain; version=0.0.4; charset=utf-8",
            .body = metrics_of(parts_.jobs, parts_.status, parts_.server)};
  }
  if (parts.empty() || parts[0] != "v1") return page(request, target);
  if (target.path == "/v1/session") return session(request);
  const auto owner = parts_.guard.owner_of(request);
  const auto what = parts.size() > 1 ? parts[1] : std::string();
  if (what == "videos") return videos(request, target, owner);
  if (what == "models") return check_method(request, {http::verb::get}), models(target);
  if (parts.size() != 2) refuse_path(target.path);
  if (what == "events") return check_method(request, {http::verb::get}), events(owner, {});
  if (what == "plan")
    return check_method(request, {http::verb::get, http::verb::post}), plan(request, target);
  if (what == "status") return check_method(request, {http::verb::get}), json_answer(status_view());
  if (what == "capabilities") return check_method(request, {http::verb::get}), json_answer(capabilities());
  if (what == "history") return check_method(request, {http::verb::get}), history(target, owner);
  refuse_path(target.path);
}

Answer Api::videos(const Request& request, const Target& target, const std::string& owner) {
  if (target.parts.size() > 2 && target.parts[2] == "sync") {
    if (target.parts.size() > 3) refuse_path(target.path);
    check_method(request, {http::verb::post});
    return create(request, owner, true);
  }
  if (target.parts.size() > 2) return video(request, target, owner);
  check_method(request, {http::verb::get, http::verb::post});
  return request.method() == http::verb::post ? create(request, owner, false) : list(target, owner);
}

Answer Api::video(const Request& request, const Target& target, const std::string& owner) {
  const auto& id = target.parts[2];
  const auto what = target.parts.size() == 4 ? target.parts[3] : std::string();
  if (target.parts.size() > 4 || (target.parts.size() == 4 && what.empty())) refuse_path(target.path);
  if (what.empty()) {
    check_method(request, {http::verb::get, http::verb::delete_});
    if (request.method() != http::verb::delete_) return json_answer(parts_.jobs.view(id, owner));
    parts_.jobs.remove(id, owner);
    return json_answer({{"id", id}, {"object", "video.deleted"}, {"deleted", true}});
  }
  if (what == "cancel") {
    check_method(request, {http::verb::post});
    return json_answer(parts_.jobs.cancel(id, owner));
  }
  check_method(request, {http::verb::get});
  if (what == "content") return content(request, target, owner);
  if (what == "events") return parts_.jobs.view(id, owner), events(owner, id);
  if (what == "preview") {
    auto png = parts_.jobs.preview(id, owner);
    if (png.empty())
      throw Refusal(http::status::not_found, "not_found", "there is no preview of this video now");
    return {.type = "image/png", .body = std::move(png)};
  }
  refuse_path(target.path);
}

Answer Api::create(const Request& request, const std::string& owner, bool is_sync) {
  auto record = parts_.planner.plan(body_in(request)).record;
  record.owner = owner;
  const auto view = parts_.jobs.submit(std::move(record));
  if (!is_sync) return json_answer(view);
  const auto id = view.at("id").get<std::string>();
  const auto answer = [this, id, owner, request]() -> std::optional<Answer> {
    try {
      const auto record = parts_.jobs.record(id, owner);
      if (!record.is_over()) return std::nullopt;
      if (record.status == "cancelled")
        throw Refusal(http::status::conflict, "cancelled", "the job was cancelled");
      if (record.status == "failed")
        throw Refusal(http::status::internal_server_error, record.error_code, record.error);
      auto made = file_of(request, record, "video", false);
      made.headers["X-Video-Id"] = id;
      return made;
    } catch (const Refusal& refusal) {
      return answer_of(refusal);
    }
  };
  const auto gone = [this, id, owner] {
    try {
      parts_.jobs.cancel(id, owner);
    } catch (const Refusal&) {  // it is over already
    }
  };
  return {.body = LaterBody{parts_.feed.subscribe(owner, id), answer, gone}};
}

Answer Api::list(const Target& target, const std::string& owner) const {
  check_query(target, {"limit", "after", "order", "status"});
  const auto limit = target.number("limit", 1, 100).value_or(20);
  const auto order = target.one_of("order", {"asc", "desc"}).value_or("desc");
  const auto after = target.value("after");
  if (after) parts_.jobs.record(*after, owner);
  auto views = parts_.jobs.list({.owner = owner,
                                 .statuses = statuses_in(target),
                                 .after = after.value_or(""),
                                 .is_newest_first = order == "desc",
                                 .limit = limit + 1});
  const bool has_more = static_cast<int64_t>(views.size()) > limit;
  if (has_more) views.pop_back();
  const auto id_of = [&](const json& view) { return views.empty() ? json() : view.at("id"); };
  return json_answer({{"object", "list"},
                      {"data", views},
                      {"first_id", views.empty() ? json() : id_of(views.front())},
                      {"last_id", views.empty() ? json() : id_of(views.back())},
                      {"has_more", has_more}});
}

Answer Api::content(const Request& request, const Target& target, const std::string& owner) const {
  check_query(target, {"variant", "download"});
  const auto record = parts_.jobs.record(target.parts[2], owner);
  const auto variant =
      target.one_of("variant", {"video", "thumbnail", "spritesheet", "tensors"}).value_or("video");
  const bool is_download = target.one_of("download", {"0", "1"}).value_or("0") == "1";
  if (record.status != "completed")
    throw Refusal(http::status::conflict, "not_finished",
                  fmt::format("the video is {}; there is no file of it", record.status));
  if (record.expired_at != 0)
    throw Refusal(http::status::gone, "expired", "the video's files were removed to keep the quota");
  if (variant == "tensors" && !record.has_tensors)
    throw Refusal(http::status::not_found, "not_found", "this job was not asked to save_tensors");
  return file_of(request, record, variant, is_download);
}

Answer Api::file_of(const Request& request, const Record& record, const std::string& variant,
                    bool is_download) const {
  const auto name = file_name_of(variant);
  const auto file = parts_.jobs.folder_of(record.id) / name;
  std::error_code error;
  const auto size = fs::file_size(file, error);
  if (error) throw Refusal(http::status::gone, "expired", "the file is gone");
  const auto tag = fmt::format("\"{}-{}\"", record.id, variant);
  Answer answer{
      .type = type_of(name),
      .headers = {{"ETag", tag}, {"Accept-Ranges", "bytes"}, {"Cache-Control", "private, no-cache"}}};
  if (is_download)
    answer.headers["Content-Disposition"] = fmt::format("attachment; filename=\"{}_{}\"", record.id, name);
  if (request[http::field::if_none_match] == tag) {
    answer.status = http::status::not_modified;
    return answer;
  }
  const bool is_same = request.count(http::field::if_range) == 0 || request[http::field::if_range] == tag;
  const auto header = request[http::field::range];
  const auto range = is_same ? range_of({header.data(), header.size()}, size) : std::nullopt;
  if (range) {
    answer.status = http::status::partial_content;
    answer.headers["Content-Range"] =
        fmt::format("bytes {}-{}/{}", range->first, range->first + range->length - 1, size);
  }
  answer.body = range ? FileBody{file, range->first, range->length} : FileBody{file, 0, size};
  return answer;
}

Answer Api::events(const std::string& owner, const std::optional<std::string>& id) {
  auto subscription = parts_.feed.subscribe(owner, id);
  if (id) {
    const auto view = parts_.jobs.view(*id, owner);
    subscription->put("job" + *id, sent_form("job", view.dump()), is_terminal(view));
  } else {
    subscription->put("status", sent_form("status", status_view().dump()));
    for (const auto& view : parts_.jobs.live(owner))
      subscription->put("job" + view.at("id").get<std::string>(), sent_form("job", view.dump()));
  }
  return {.type = "text/event-stream", .body = EventsBody{std::move(subscription)}};
}

Answer Api::plan(const Request& request, const Target& target) const {
  json body = json::object();
  if (request.method() == http::verb::post)
    body = body_in(request);
  else
    for (const auto& [name, value] : target.query) body[name] = value;
  auto view = parts_.planner.view(body);
  if (view.at("possible").get<bool>()) {
    const auto seconds = parts_.jobs.seconds_of(view.at("settings"));
    view["eta_s"] = seconds ? json(*seconds) : json();
  }
  return json_answer(view);
}

Answer Api::models(const Target& target) const {
  const auto& name = parts_.status.model();
  const json model = {{"id", name}, {"object", "model"}, {"created", 0}, {"owned_by", "wanpar"}};
  if (target.parts.size() == 2) return json_answer({{"object", "list"}, {"data", json::array({model})}});
  if (target.parts.size() != 3 || target.parts[2] != name)
    throw Refusal(http::status::not_found, "model_not_found",
                  fmt::format("there is no such model here; it is '{}'", name));
  return json_answer(model);
}

Answer Api::history(const Target& target, const std::string& owner) const {
  check_query(target, {"status", "from", "to", "q", "limit", "format"});
  const auto records =
      parts_.jobs.records().list({.owner = owner,
                                  .statuses = statuses_in(target),
                                  .from = target.number("from", 0, INT64_MAX).value_or(0),
                                  .to = target.number("to", 0, INT64_MAX).value_or(INT64_MAX),
                                  .words = target.value("q").value_or(""),
                                  .with_deleted = true,
                                  .limit = target.number("limit", 1, 10000).value_or(1000)});
  if (target.one_of("format", {"json", "csv"}).value_or("json") == "csv")
    return {.type = "text/csv; charset=utf-8",
            .body = history_csv(records),
            .headers = {{"Content-Disposition", "attachment; filename=\"history.csv\""}}};
  auto rows = json::array();
  for (const auto& record : records) rows.push_back(history_row(record));
  const auto totals = parts_.jobs.records().totals(owner);
  json sums = totals.of_status;
  sums["run_s"] = totals.run_seconds;
  return json_answer({{"object", "list"}, {"data", rows}, {"totals", sums}});
}

Answer Api::session(const Request& request) const {
  check_method(request, {http::verb::post, http::verb::delete_});
  if (request.method() == http::verb::delete_)
    return {.status = http::status::no_content, .type = "", .headers = Guard::end_of_session()};
  const auto body = body_in(request);
  if (!body.contains("token") || !body["token"].is_string())
    throw Refusal(http::status::bad_request, "missing_field", "token is missing; it is the server's key",
                  "token");
  return {.status = http::status::no_content,
          .type = "",
          .headers = parts_.guard.session_for(body["token"].get<std::string>())};
}

Answer Api::page(const Request& request, const Target& target) const {
  const auto name = target.path == "/" ? std::string("index.html") : target.path.substr(1);
  const auto* asset = asset_named(name);
  if (!asset) refuse_path(target.path);
  check_method(request, {http::verb::get});
  if (const auto token = target.value("token"); token && target.path == "/") {
    auto headers = parts_.guard.session_for(*token);
    headers["Location"] = "/";
    return {.status = http::status::see_other, .type = "", .headers = headers};
  }
  const auto tag = fmt::format("\"{:x}\"", std::hash<std::string_view>()(asset->bytes));
  Answer answer{.type = type_of(name), .headers = {{"ETag", tag}, {"Cache-Control", "no-cache"}}};
  if (request[http::field::if_none_match] == tag)
    answer.status = http::status::not_modified;
  else
    answer.body = std::string(asset->bytes);
  return answer;
}

Answer Api::health() const {
  if (parts_.status.state() != "failed") return json_answer({{"status", "ok"}});
  return json_answer(
      {{"status", "failed"}, {"dead_ranks", parts_.status.lost_ranks()}, {"reason", parts_.status.reason()}},
      http::status::service_unavailable);
}

Answer Api::ready() const {
  const auto state = parts_.status.state();
  return json_answer({{"state", state}, {"percent", parts_.status.percent()}},
                     state == "ready" ? http::status::ok : http::status::service_unavailable);
}

json Api::status_view() const {
  auto view = parts_.status.view();
  const auto counts = parts_.jobs.counts();
  view["queue"] = {{"waiting", counts.waiting},
                   {"capacity", counts.capacity},
                   {"running", counts.running.empty() ? json() : json(counts.running)}};
  view["disk"] = {
      {"used_bytes", counts.used_bytes}, {"quota_bytes", counts.quota_bytes}, {"videos", counts.videos}};
  return view;
}

json Api::capabilities() const {
  const auto options = options_of([&] {
    auto flags = parts_.planner.defaults();
    flags["prompt"] = "-";
    return flags;
  }());
  json defaults = {{"size", fmt::format("{}x{}", options.width, options.height)},
                   {"num_frames", options.frame_num},
                   {"fps", options.fps},
                   {"num_inference_steps", options.sample_steps},
                   {"guidance_scale", options.sample_guide_scale},
                   {"flow_shift", options.sample_shift ? json(*options.sample_shift) : json()},
                   {"sample_solver", options.sample_solver},
                   {"negative_prompt", options.negative_prompt},
                   {"ranks", parts_.planner.ranks()},
                   {"dit_fsdp", options.dit_fsdp},
                   {"t5_fsdp", options.t5_fsdp},
                   {"vae_parallel", options.vae_parallel}};
  const auto ranks = parts_.planner.ranks();
  const auto whole = [](int64_t least, int64_t greatest) {
    return json{{"type", "integer"}, {"minimum", least}, {"maximum", greatest}};
  };
  const auto real = [](double least, double greatest) {
    return json{{"type", "number"}, {"minimum", least}, {"maximum", greatest}};
  };
  const json truth = {{"type", "boolean"}};
  json fields = {
      {"prompt", {{"type", "string"}, {"maxLength", 8000}}},
      {"negative_prompt", {{"type", "string"}, {"maxLength", 8000}}},
      {"size", {{"type", "string"}, {"multiple_of", 16}}},
      {"num_frames", {{"type", "integer"}, {"minimum", 1}, {"maximum", 4093}, {"step", 4}}},
      {"fps", whole(1, 1000)},
      {"num_inference_steps", whole(1, 1000)},
      {"guidance_scale", real(0, 100)},
      {"flow_shift", real(0.001, 1000)},
      {"seed", whole(-1, INT64_MAX)},
      {"sample_solver", {{"type", "string"}, {"choices", {"unipc", "dpm++", "euler", "diffusers_unipc"}}}},
      {"ranks", whole(1, ranks)},
      {"cfg_size", whole(1, 2)},
      {"ulysses_size", whole(1, ranks)},
      {"ring_size", whole(1, ranks)},
      {"pipeline_size", whole(1, ranks)},
      {"patch_parallel_size", whole(1, ranks)},
      {"split_mode", {{"type", "string"}, {"choices", {"spatial", "temporal", "spatiotemporal"}}}},
      {"dit_fsdp", truth},
      {"t5_fsdp", truth},
      {"vae_parallel", truth},
      {"save_tensors", truth}};
  return {{"model", parts_.status.model()},
          {"defaults", defaults},
          {"fields", fields},
          {"limits",
           {{"queue", parts_.jobs.counts().capacity},
            {"prompt_bytes", 8000},
            {"body_bytes", Limits().body_bytes},
            {"ranks", ranks}}}};
}

}  // namespace wan::serve
