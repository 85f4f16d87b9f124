#include "wan/io/layout.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <wanpar/extend/files/mapped_file.hpp>

#include "wan/io/diffusers_layout.hpp"
#include "wan/io/folder.hpp"
#include "wan/io/official_layout.hpp"
#include "wanpar/core/error.hpp"

namespace wan {

const std::vector<Layout>& layouts() {
  static const std::vector<Layout> all{diffusers_layout(), official_layout()};
  return all;
}

const Layout& layout_of(const std::filesystem::path& folder) {
  if (!is_folder(folder))
    throw wanpar::Error(
        fmt::format("{} is not a folder; give the folder of a Wan checkpoint", folder.string()));
  if (is_folder(folder / "high_noise_model") || is_folder(folder / "low_noise_model"))
    throw wanpar::Error(fmt::format("{} is {}", folder.string(), kTwoExperts));
  std::vector<std::string> wanted;
  for (const auto& layout : layouts()) {
    if (wanpar::is_there(folder / layout.known_by)) return layout;
    wanted.push_back(fmt::format("{} ({})", layout.known_by, layout.published));
  }
  throw wanpar::Error(fmt::format("{} is not a Wan checkpoint: it has neither {}", folder.string(),
                                  fmt::join(wanted, " nor ")));
}

}  // namespace wan
