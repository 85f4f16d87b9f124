#include "core/sentence.hpp"

#include <exception>
#include <new>
#include <wanpar/core/error.hpp>

namespace wanpar {

std::string sentence_at_hand() {
  try {
    throw;
  } catch (const Error& error) {
    return error.what();
  } catch (const std::bad_alloc&) {
    return "memory ran out";
  } catch (const std::exception& error) {
    const auto text = first_line(error.what());
    const auto allocation =
        text.find("you tried to allocate ");  // LibTorch's on the CPU, behind its own source
    return allocation == std::string::npos ? text : "memory ran out: " + text.substr(allocation);
  } catch (...) {
    return "an exception that is no std::exception";
  }
}

}  // namespace wanpar
