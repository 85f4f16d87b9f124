#pragma once
#include <stdexcept>
#include <string>

#include "wan/serve/http/answer.hpp"

namespace wan::serve {

/// A rejected request: an HTTP status, and a message for the client.
struct Refusal : std::runtime_error {
  Refusal(http::status status, std::string code, const std::string& sentence, std::string param = {},
          std::map<std::string, std::string> headers = {})
      : std::runtime_error(sentence),
        status(status),
        code(std::move(code)),
        param(std::move(param)),
        headers(std::move(headers)) {}

  http::status status;
  std::string code;   ///< machine-readable, e.g. `queue_full`
  std::string param;  ///< the field that caused it, if any
  std::map<std::string, std::string> headers;
};

/// The response in the format of OpenAI's clients.
Answer answer_of(const Refusal& refusal);

}  // namespace wan::serve
