#include "wan/generate/outputs.hpp"

#include <doctest/doctest.h>

namespace outputs_test {
namespace {

wan::Job job_of(size_t prompts) {
  wan::Options options;
  options.ckpt_dir = TEST_DATA "/diffusers";
  options.prompt = "a fox";
  options.device = "cpu";
  auto job = wan::plan(options, 1);
  job.prompts.resize(prompts, "a fox");
  return job;
}

}  // namespace

TEST_CASE("one prompt's files are called as asked for, those of a file of prompts have their numbers") {
  auto job = job_of(1);
  job.options.save_file = "out/fox.mp4";
  job.options.save_tensors = "fox.v2.safetensors";
  CHECK(outputs_of(job)[0].video == "out/fox.mp4");
  CHECK(outputs_of(job)[0].tensors == "fox.v2.safetensors");
  CHECK(outputs_of(job)[0].contact_sheet.empty());

  job.options.prompt_file = "prompts.txt";
  CHECK(outputs_of(job)[0].video == "out/fox_1.mp4");
  job.prompts.resize(12, "a cat");
  const auto outputs = outputs_of(job);
  REQUIRE(outputs.size() == 12);
  CHECK(outputs[1].video == "out/fox_02.mp4");
  CHECK(outputs[11].video == "out/fox_12.mp4");
  CHECK(outputs[11].tensors == "fox.v2_12.safetensors");
  CHECK(outputs[11].contact_sheet.empty());
}

TEST_CASE("files that nobody named are named after the job, two like prompts' differently") {
  auto job = job_of(2);
  job.options.prompt_file = "prompts.txt";
  const auto outputs = outputs_of(job);
  CHECK(outputs[0].video.string().starts_with("t2v_832x480_1_1_a_fox_"));
  CHECK(outputs[0].video != outputs[1].video);
}

}  // namespace outputs_test
