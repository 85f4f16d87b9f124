#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string_view>
#include <wanpar/extend/core/call.hpp>

namespace wanpar {

const char* name(Operation operation) {
  switch (operation) {
    case Operation::all_reduce:
      return "all_reduce";
    case Operation::all_gather:
      return "all_gather";
    case Operation::reduce_scatter:
      return "reduce_scatter";
    case Operation::all_to_all:
      return "all_to_all";
    case Operation::broadcast:
      return "broadcast";
    case Operation::exchange:
      return "exchange";
    case Operation::barrier:
      return "barrier";
    case Operation::subgroup:
      return "subgroup";
  }
  return "?";
}

const char* name(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return "sum";
    case ReduceOp::mean:
      return "mean";
    case ReduceOp::product:
      return "product";
    case ReduceOp::min:
      return "min";
    case ReduceOp::max:
      return "max";
  }
  return "?";
}

std::string describe(const Call& call) {
  std::string arguments;
  if (call.operation == Operation::all_reduce || call.operation == Operation::reduce_scatter)
    arguments = fmt::format("{}, ", name(call.reduce));
  if (call.operation == Operation::broadcast) arguments = fmt::format("root {}, ", call.root);
  if (call.operation != Operation::barrier && call.operation != Operation::subgroup)
    arguments += fmt::format("{}{}", c10::toString(call.dtype), call.shape);
  if (!call.sizes.empty()) arguments += fmt::format(", sizes {}", call.sizes);

  auto number = call.sequence ? fmt::format(" #{}", call.sequence) : std::string();
  auto about = call.about.empty() ? std::string() : " of " + call.about;
  std::string_view file = call.site.file_name();
  file.remove_prefix(std::min(file.size(), file.rfind('/') + 1));
  return fmt::format("{}({}){}{}, called at {}:{}", name(call.operation), arguments, number, about, file,
                     call.site.line());
}

std::string where(const Call& call) {
  return fmt::format("rank {} of {}, {}", call.rank, call.size, describe(call));
}

std::string too_late(const Call& call, const std::string& who) {
  auto seconds = std::chrono::duration<double>(call.timeout).count();
  return fmt::format("{}: {} did not come within {} s", where(call), who, seconds);
}

}  // namespace wanpar
