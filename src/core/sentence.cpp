#include "core/sentence.hpp"

#include <exception>
#include <wanpar/core/error.hpp>

namespace wanpar {

std::string sentence_at_hand() {
  try {
    throw;
  } catch (const Error& error) {
    return error.what();
  } catch (const std::exception& error) {
    return first_line(error.what());
  } catch (...) {
    return "an exception that is no std::exception";
  }
}

}  // namespace wanpar
