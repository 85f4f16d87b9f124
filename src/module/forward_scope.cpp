#include <wanpar/extend/module/forward_scope.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <wanpar/core/error.hpp>

namespace wanpar {

void check_names(const std::string& strategy, const std::string& option, const ValueNames& names,
                 const Arguments& arguments) {
  for (auto& name : names) {
    auto& text = name.text();
    bool is_position = !text.empty() && std::all_of(text.begin(), text.end(), ::isdigit);
    if (text.starts_with('-') || (is_position && std::stoll(text) >= arguments.count))
      throw UsageError(fmt::format("{}: {} names argument {}, but the module was called with {}", strategy,
                                   option, text, arguments.count));
    bool is_there = std::any_of(arguments.tensors.begin(), arguments.tensors.end(),
                                [&](auto& item) { return name.names(item.name); });
    bool is_empty = is_position && std::none_of(arguments.plain.begin(), arguments.plain.end(),
                                                [&](auto& path) { return name.names(path); });
    if (!is_there && !is_empty)
      throw UsageError(
          fmt::format("{}: argument {} is no tensor and holds none; see {}", strategy, text, option));
  }
}

}  // namespace wanpar
