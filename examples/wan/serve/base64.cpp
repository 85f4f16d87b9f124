#include "wan/serve/base64.hpp"

#include <boost/beast/core/detail/base64.hpp>

namespace wan::serve {

std::string base64(std::string_view bytes) {
  namespace codec = boost::beast::detail::base64;
  std::string text(codec::encoded_size(bytes.size()), '\0');
  text.resize(codec::encode(text.data(), bytes.data(), bytes.size()));
  return text;
}

}  // namespace wan::serve
