#include "launch/environment.hpp"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>

namespace wanpar {

std::optional<std::string> environment(const char* name) {
  auto* value = std::getenv(name);
  return value && *value ? std::optional<std::string>(value) : std::nullopt;
}

int number(const char* name, std::optional<int> otherwise) {
  auto text = environment(name);
  if (!text && otherwise) return *otherwise;
  if (!text)
    throw UsageError(fmt::format("{} is not set, but other variables of the same launcher are", name));
  int value = 0;
  auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc{} || end != text->data() + text->size())
    throw UsageError(fmt::format("{} is '{}', which is no number", name, *text));
  return value;
}

Backend find_backend() {
  auto name = environment("WANPAR_BACKEND");
  if (!name) return Backend::automatic;
  if (*name == "gloo") return Backend::gloo;
  if (*name == "nccl") return Backend::nccl;
  throw UsageError(fmt::format("WANPAR_BACKEND is '{}'; it is gloo, nccl, or not set", *name));
}

}  // namespace wanpar
