#include "wan/serve/http/refusal.hpp"

#include <nlohmann/json.hpp>

namespace wan::serve {
namespace {

const char* type_of(http::status status) {
  if (status == http::status::unauthorized) return "authentication_error";
  if (status == http::status::too_many_requests) return "rate_limit_error";
  return static_cast<unsigned>(status) >= 500 ? "server_error" : "invalid_request_error";
}

}  // namespace

Answer answer_of(const Refusal& refusal) {
  const nlohmann::json error = {
      {"type", type_of(refusal.status)},
      {"code", refusal.code},
      {"message", refusal.what()},
      {"param", refusal.param.empty() ? nlohmann::json() : nlohmann::json(refusal.param)}};
  // A text of the client's may be in the sentence, and need not be UTF-8.
  const auto text =
      nlohmann::json{{"error", error}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return {.status = refusal.status, .body = text, .headers = refusal.headers};
}

}  // namespace wan::serve
