#pragma once
#include <filesystem>
#include <string>

namespace wanrun {

/// A shell script that makes what the file says: `CKPT [num_gpus] [flags]` are its words; it runs wan_check,
/// and then wan_t2v. Throws UsageError for a file of which wan_t2v would refuse what it says.
std::string script_of_workflow(const std::filesystem::path& file);
std::string script_of_config(const std::filesystem::path& file);

}  // namespace wanrun
