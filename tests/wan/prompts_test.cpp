#include "wan/cli/prompts.hpp"

#include <doctest/doctest.h>

#include <fstream>

#include "fixture.hpp"

using wan::prompts_of;
using namespace wan_test;

namespace prompts_test {
namespace {

wan::Options with_file(const std::filesystem::path& file, int64_t groups = 1) {
  wan::Options options;
  options.prompt_file = file;
  options.degrees.data = groups;
  return options;
}

std::filesystem::path file_of(const Folder& folder, const std::string& text) {
  std::ofstream(folder / "prompts.txt", std::ios::binary) << text;
  return folder / "prompts.txt";
}

}  // namespace

TEST_CASE("a file has a prompt a line, blank lines and what Windows adds left out") {
  const Folder folder;
  const auto file = file_of(folder,
                            "\xEF\xBB\xBF"
                            "a red fox\r\n\r\n \t \n  the sea, at night \nlast");
  CHECK(prompts_of(with_file(file, 3)) == std::vector<std::string>{"a red fox", "the sea, at night", "last"});
}

TEST_CASE("without a file there is the one prompt that was given") {
  wan::Options options;
  options.prompt = "a red fox";
  CHECK(prompts_of(options) == std::vector<std::string>{"a red fox"});
}

TEST_CASE("prompts that are not there, and groups without one, are refused in a sentence") {
  const Folder folder;
  const auto refusal = [](const wan::Options& options) { return message_of([&] { prompts_of(options); }); };
  CHECK(says(refusal(with_file(folder / "none.txt")), "--prompt_file", "none.txt", "cannot be read"));
  CHECK(says(refusal(with_file(folder.path)), "cannot be read"));
  CHECK(says(refusal(with_file(file_of(folder, ""))), "prompts.txt", "holds no prompt"));
  CHECK(says(refusal(with_file(file_of(folder, "\n \r\n"))), "holds no prompt"));
  CHECK(says(refusal(with_file(file_of(folder, "one\ntwo\n"), 3)), "--data_parallel_size 3", "prompts, 2"));
  wan::Options alone;
  alone.prompt = "a red fox";
  alone.degrees.data = 2;
  CHECK(says(refusal(alone), "--data_parallel_size 2", "prompts, 1", "--prompt_file"));
}

}  // namespace prompts_test
