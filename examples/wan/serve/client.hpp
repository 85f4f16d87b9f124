#pragma once
#include <filesystem>
#include <iosfwd>
#include <string>

#include "wan/io/progress.hpp"
#include "wan/serve/record.hpp"

namespace wan::serve {

/// The files that a client downloads; empty paths are skipped.
struct WantedFiles {
  std::filesystem::path video, contact_sheet,
      tensors;  ///< the video is named after its id by default
};

/// Submits the job of wan_t2v's flags to a wan_serve, shows its progress, and downloads the files; prints
/// their names to `results`. A signal cancels the job. Throws Error, with the server's own message if it has
/// one.
void make_at(const std::string& url, const Flags& flags, const WantedFiles& files, std::ostream& out,
             std::ostream& results);

}  // namespace wan::serve
