#pragma once
#include <filesystem>
#include <iosfwd>
#include <string>

#include "wan/io/progress.hpp"
#include "wan/serve/record.hpp"

namespace wan::serve {

/// Files that a client wants of a video; empty where not.
struct WantedFiles {
  std::filesystem::path video, contact_sheet,
      tensors;  ///< the video has its id as a name where none is given
};

/// Has a wan_serve make the video that wan_t2v's flags ask for, shows its progress, and brings the files;
/// their names go to `results`. A signal cancels the job. Throws Error, with the server's own sentence where
/// it has one.
void make_at(const std::string& url, const Flags& flags, const WantedFiles& files, std::ostream& out,
             std::ostream& results);

}  // namespace wan::serve
