#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace wan {

/// Bounds of a number, both included.
template <class Number>
struct Between {
  Number least, greatest;
};

/// What a config.json says. Each value is checked where it is read: each function throws Error, with file,
/// key, what was found and what is allowed, for one that is missing, of another kind or out of bounds.
class Settings {
 public:
  /// Throws Error for a file that is missing or no JSON object.
  explicit Settings(const std::filesystem::path& file);
  Settings(nlohmann::json values, std::string file) : values_(std::move(values)), file_(std::move(file)) {}

  /// The file, as errors name it.
  const std::string& file() const { return file_; }
  /// Whether the key is there and not null.
  bool has(const std::string& key) const;

  /// The value as it is; null where there is none.
  nlohmann::json item(const std::string& key) const { return has(key) ? values_.at(key) : nlohmann::json(); }

  int64_t count(const std::string& key, Between<int64_t> bounds) const;
  double amount(const std::string& key, Between<double> bounds) const;
  std::string text(const std::string& key) const;
  /// Lists of as many elements as `length` allows.
  std::vector<int64_t> counts(const std::string& key, Between<size_t> length, Between<int64_t> bounds) const;
  std::vector<double> amounts(const std::string& key, Between<size_t> length, Between<double> bounds) const;
  std::vector<bool> switches(const std::string& key, Between<size_t> length) const;

  /// The key may be missing or null, but says nothing else than `only`; `why` ends the sentence.
  void must_be(const std::string& key, const nlohmann::json& only, const std::string& why) const;
  /// The key is missing or null; `why` ends the sentence.
  void must_not_be(const std::string& key, const std::string& why) const;
  /// Throws Error: the key has a value that does not go on, and what would.
  [[noreturn]] void refuse(const std::string& key, const std::string& allowed) const;

 private:
  const nlohmann::json& value(const std::string& key, const std::string& allowed) const;
  const nlohmann::json& list(const std::string& key, Between<size_t> length, const std::string& of) const;

  nlohmann::json values_;
  std::string file_;
};

}  // namespace wan
