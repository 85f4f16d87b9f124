#pragma once
#include <stdexcept>
#include <string>

#include "wan/serve/http/answer.hpp"

namespace wan::serve {

/// A request that is not served: an HTTP status, and a sentence for the caller.
struct Refusal : std::runtime_error {
  Refusal(http::status status, std::string code, const std::string& sentence, std::string param = {},
          std::map<std::string, std::string> headers = {})
      : std::runtime_error(sentence),
        status(status),
        code(std::move(code)),
        param(std::move(param)),
        headers(std::move(headers)) {}

  http::status status;
  std::string code;   ///< for programs, as in `queue_full`
  std::string param;  ///< the field that it is about, where it is about one
  std::map<std::string, std::string> headers;
};

/// The same in the shape that OpenAI's clients read.
Answer answer_of(const Refusal& refusal);

}  // namespace wan::serve
