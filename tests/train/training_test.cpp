#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>
#include <sstream>
#include <wanpar/files/safetensors.hpp>

#include "../wan/fixture.hpp"
#include "../worlds.hpp"
#include "train/adamw.hpp"
#include "train/captions.hpp"
#include "train/losses.hpp"
#include "train/options.hpp"
#include "train/run.hpp"
#include "train/shapes.hpp"
#include "wan/io/checkpoint.hpp"
#include "wan/io/load.hpp"
#include "wan/io/write_checkpoint.hpp"
#include "wan/model/transformer.hpp"
#include "wan/text/tokenizer.hpp"
#include "wan/text/tokenizer_model.hpp"
#include "wan/text/vocabulary.hpp"
#include "wan/vae/decoder.hpp"
#include "wan/vae/encoder.hpp"
#include "wanpar/transport/local.hpp"

using namespace wan::train;
using namespace wan_test;
using Flags = std::vector<std::string>;

namespace training_test {
namespace {

Flags with(Flags flags, const Flags& more) {
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

/// Flags with other values for some of them.
Flags changed(Flags flags, const Flags& changes) {
  for (size_t k = 0; k < changes.size(); k += 2)
    *(std::find(flags.begin(), flags.end(), changes[k]) + 1) = changes[k + 1];
  return flags;
}

Flags vae_flags(const std::filesystem::path& folder) {
  return {"--task",        "vae",     "--output_dir",   folder.string(),
          "--frame_size",  "32",      "--frame_num",    "5",
          "--crop_size",   "16",      "--crop_frames",  "5",
          "--vae_dim",     "4",       "--steps",        "5",
          "--warm_up",     "2",       "--batch_size",   "4",
          "--dtype",       "float64", "--sample_every", "100",
          "--print_every", "1"};
}

Flags t2v_flags(const std::filesystem::path& vae, const std::filesystem::path& folder) {
  return {"--task",
          "t2v",
          "--vae",
          vae.string(),
          "--output_dir",
          folder.string(),
          "--frame_size",
          "32",
          "--frame_num",
          "5",
          "--dim",
          "24",
          "--heads",
          "2",
          "--layers",
          "2",
          "--text_dim",
          "16",
          "--clips",
          "20",
          "--steps",
          "5",
          "--warm_up",
          "2",
          "--batch_size",
          "4",
          "--dtype",
          "float64",
          "--sample_every",
          "100",
          "--caption_dropout",
          "0.4"};
}

/// Runs on so many thread ranks; with `stop_at` a step, stops behind that one.
void train_on(int ranks, const Flags& flags, const std::string& stop_at = {}) {
  const auto options = parse_options(flags);
  std::atomic<bool> stop = false;
  /// Hears what a run says.
  struct Ear : std::stringbuf {
    std::atomic<bool>& stop;
    std::string word;
    Ear(std::atomic<bool>& s, std::string w) : stop(s), word(std::move(w)) {}
    int sync() override {
      if (!word.empty() && str().find(word) != std::string::npos) stop = true;
      return 0;
    }
  } ear(stop, stop_at);
  std::ostream log(&ear);
  wanpar::local::run(ranks, [&](wanpar::Communicator world) { run(world, options, at::kCPU, stop, log); });
}

/// The losses and gradient norms of each step, as a run's CSV has them.
std::vector<std::vector<double>> losses_of(const std::filesystem::path& folder) {
  std::vector<std::vector<double>> rows;
  std::ifstream file(folder / "losses.csv");
  std::string line;
  std::getline(file, line);
  while (std::getline(file, line)) {
    std::vector<double> row;
    std::istringstream cells(line);
    for (std::string cell; std::getline(cells, cell, ',');) row.push_back(std::stod(cell));
    rows.push_back(row);
  }
  return rows;
}

void check_same(const std::filesystem::path& actual, const std::filesystem::path& expected,
                double tolerance) {
  const auto a = losses_of(actual), b = losses_of(expected);
  REQUIRE(b.size() == 5);
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    REQUIRE(a[i].size() == b[i].size());
    for (size_t k = 0; k < a[i].size(); ++k)
      CHECK(std::abs(a[i][k] - b[i][k]) <= tolerance * std::abs(b[i][k]));
  }
  CHECK(b.back()[1] != b.front()[1]);
}

}  // namespace

TEST_CASE("the VAE's losses on two ranks, sharded in any way, are those of one") {
  Folder folder;
  train_on(1, vae_flags(folder / "one"));
  for (const std::string shard : {"none", "grad", "full"}) {
    CAPTURE(shard);
    train_on(2, with(vae_flags(folder / shard), {"--shard", shard}));
    check_same(folder / shard, folder / "one", 1e-9);
  }
  train_on(1, with(vae_flags(folder / "parts"), {"--accumulate", "2"}));
  check_same(folder / "parts", folder / "one", 1e-9);
}

TEST_CASE("single frames leave parameters without a gradient, on every rank alike") {
  Folder folder;
  const auto single = [&](const std::string& name) {
    return changed(vae_flags(folder / name), {"--crop_frames", "1"});
  };
  train_on(1, single("one"));
  train_on(2, single("two"));
  train_on(2, with(single("full"), {"--shard", "full"}));
  check_same(folder / "two", folder / "one", 1e-9);
  check_same(folder / "full", folder / "one", 1e-9);
}

TEST_CASE(
    "the transformer's losses on two ranks, sharded in any way, are those of one; its checkpoint opens") {
  Folder folder;
  train_on(1, vae_flags(folder / "vae"));
  const auto flags = [&](const std::string& name) { return t2v_flags(folder / "vae", folder / name); };
  train_on(1, flags("one"));
  for (const std::string shard : {"none", "grad", "full"}) {
    CAPTURE(shard);
    train_on(2, with(flags(shard), {"--shard", shard, "--activation_checkpointing"}));
    check_same(folder / shard, folder / "one", 1e-9);
  }
  train_on(4, with(flags("hybrid"), {"--shard", "full", "--data_parallel_size", "2"}));
  check_same(folder / "hybrid", folder / "one", 1e-9);

  const wan::Checkpoint checkpoint(folder / "one" / "checkpoint");
  CHECK(checkpoint.flow_shift() == 3);
  CHECK(checkpoint.transformer_config().layers == 2);
  wan::Transformer transformer(checkpoint.transformer_config());
  wan::load(*transformer, checkpoint.transformer(), {});
  wan::VaeEncoder encoder(checkpoint.vae_config());
  wan::load(*encoder, checkpoint.vae(), {.ignore_prefixes = {"decoder.", "conv2."}});
  wan::Vae decoder(checkpoint.vae_config());
  wan::load(*decoder, checkpoint.vae(), {.ignore_prefixes = {"encoder.", "conv1."}});
}

TEST_CASE("scenes with two objects are trained on as often as is asked, on any number of ranks") {
  Folder folder;
  train_on(1, vae_flags(folder / "vae"));
  const auto flags = [&](const std::string& name, const Flags& more) {
    return with(t2v_flags(folder / "vae", folder / name), more);
  };
  train_on(1, flags("as they come", {}));
  train_on(1, flags("one", {"--pairs", "0.9"}));
  train_on(2, flags("two", {"--pairs", "0.9"}));
  check_same(folder / "two", folder / "one", 1e-9);
  CHECK(losses_of(folder / "one").front()[1] != losses_of(folder / "as they come").front()[1]);
  const auto few = changed(flags("few", {"--pairs", "0.9"}), {"--clips", "1"});
  CHECK(says(message_of([&] { train_on(1, few); }), "--pairs 0.9", "none", "--clips"));
}

TEST_CASE("latents are the same to the bit on any number of ranks") {
  Folder folder;
  train_on(1, changed(vae_flags(folder / "vae"), {"--vae_dim", "16", "--steps", "1"}));
  const auto latents_on = [&](int ranks) {
    const auto run = folder / std::to_string(ranks);
    train_on(ranks, changed(t2v_flags(folder / "vae", run), {"--steps", "1"}));
    return wanpar::read_safetensors(run / "latents.safetensors");
  };
  const auto expected = latents_on(1);
  for (const int ranks : {2, 4}) {
    CAPTURE(ranks);
    const auto latents = latents_on(ranks);
    for (const auto& [name, tensor] : expected) CHECK(latents.at(name).equal(tensor));
  }
}

TEST_CASE("in float32 too, and in bfloat16 the weights that are stepped are float32") {
  Folder folder;
  const auto flags = [&](const std::string& name, const std::string& dtype) {
    return changed(vae_flags(folder / name), {"--dtype", dtype});
  };
  train_on(1, flags("one", "float32"));
  train_on(2, with(flags("two", "float32"), {"--shard", "full"}));
  check_same(folder / "two", folder / "one", 1e-4);
  for (const std::string shard : {"none", "full"}) {
    CAPTURE(shard);
    train_on(2, with(flags("half" + shard, "bfloat16"), {"--shard", shard}));
    const auto half = losses_of(folder / ("half" + shard)), one = losses_of(folder / "one");
    for (size_t i = 0; i < one.size(); ++i) CHECK(half[i][1] == doctest::Approx(one[i][1]).epsilon(0.05));
    const auto state = wanpar::read_safetensors(folder / ("half" + shard) / "state.safetensors");
    const auto weights = state.at("weights/decoder.conv1.weight");
    CHECK((weights.scalar_type() == at::kFloat));
    CHECK_FALSE(weights.equal(weights.to(at::kBFloat16).to(at::kFloat)));
  }
}

TEST_CASE(
    "a run that was stopped goes on with the same losses, on another number of ranks, sharded otherwise") {
  Folder folder;
  train_on(1, vae_flags(folder / "one"));
  train_on(2, with(vae_flags(folder / "stopped"), {"--shard", "full"}), "step 2/5");
  CHECK(losses_of(folder / "stopped").size() == 3);
  train_on(1, vae_flags(folder / "stopped"), "step 4/5");
  train_on(4, with(vae_flags(folder / "stopped"), {"--shard", "grad"}));
  check_same(folder / "stopped", folder / "one", 1e-9);
}

TEST_CASE("a run that was killed goes on at its last checkpoint, and its lost steps are made again") {
  Folder folder;
  train_on(1, vae_flags(folder / "one"));
  train_on(1, vae_flags(folder / "killed"), "step 2/5");
  std::filesystem::copy(folder / "killed" / "state.safetensors", folder / "kept");
  train_on(1, vae_flags(folder / "killed"), "step 4/5");
  std::filesystem::rename(folder / "kept", folder / "killed" / "state.safetensors");
  train_on(1, vae_flags(folder / "killed"));
  check_same(folder / "killed", folder / "one", 1e-12);
}

TEST_CASE("a run does not go on with other settings, and says which") {
  Folder folder;
  train_on(1, vae_flags(folder / "run"));
  const auto other = changed(vae_flags(folder / "run"), {"--batch_size", "8"});
  CHECK(says(message_of([&] { train_on(1, other); }), "batch_size 4", "batch_size 8", "--init"));
}

TEST_CASE("a run begins with the average weights of another") {
  Folder folder;
  train_on(1, vae_flags(folder / "first"));
  train_on(2, with(vae_flags(folder / "second"), {"--init", (folder / "first").string(), "--shard", "full"}),
           "step 1/5");
  CHECK(losses_of(folder / "second").front()[1] < losses_of(folder / "first").front()[1]);
}

TEST_CASE("a vocabulary stays with the weights that were trained with it") {
  Folder folder;
  train_on(1, vae_flags(folder / "vae"));
  const auto flags = [&](const std::string& name) { return t2v_flags(folder / "vae", folder / name); };
  const auto pieces_of = [&](const std::string& run) {
    return wan::read_sentencepiece(folder / run / "checkpoint" / "tokenizer" / "spiece.model").pieces;
  };
  std::filesystem::create_directories(folder / "first");
  const auto other = wan::vocabulary_of({"a b c d e f g h i j k l m n o p q r s t u v w x y z"});
  wan::write_tokenizer(folder / "first" / "checkpoint", other);
  train_on(1, flags("first"));
  train_on(2, with(flags("second"), {"--init", (folder / "first").string()}));
  CHECK(pieces_of("first") == other);
  CHECK(pieces_of("second") == other);

  train_on(1, flags("own"));
  CHECK(pieces_of("own") == caption_vocabulary(0));
  CHECK(losses_of(folder / "own").back()[1] != losses_of(folder / "first").back()[1]);
  std::filesystem::remove_all(folder / "own" / "checkpoint" / "tokenizer");
  CHECK(says(message_of([&] { train_on(1, flags("own")); }), "spiece.model is missing", "began"));
}

TEST_CASE("every word of a caption is a piece of its own") {
  Folder folder;
  const auto vocabulary = caption_vocabulary(0);
  CHECK(vocabulary.size() <= 400);
  wan::write_tokenizer(folder / "checkpoint", vocabulary);
  const wan::Tokenizer tokenizer(folder / "checkpoint" / "tokenizer" / "spiece.model");
  for (uint64_t i = 0; i < 500; ++i) {
    const auto caption = scene_of(7, i).caption;
    CAPTURE(caption);
    CHECK(static_cast<int64_t>(tokenizer.encode(caption).size()) ==
          std::count(caption.begin(), caption.end(), ' ') + 2);  // and the end
  }
}

TEST_CASE("the learning rate rises, and falls by a cosine") {
  const Schedule schedule{.rate = 2, .warm_up = 10, .steps = 110, .last = 0.1};
  CHECK(schedule(1) == doctest::Approx(0.2));
  CHECK(schedule(10) == doctest::Approx(2));
  CHECK(schedule(60) == doctest::Approx(1.1));
  CHECK(schedule(110) == doctest::Approx(0.2));
}

TEST_CASE("AdamW does what its paper says") {
  auto weight = at::tensor({1.0, -2.0}, at::kDouble).requires_grad_();
  AdamW optimizer({weight}, {.beta1 = 0.8, .beta2 = 0.9, .eps = 1e-8, .weight_decay = 0.1});
  auto expected = weight.detach().clone(), m = at::zeros({2}, at::kDouble), v = at::zeros({2}, at::kDouble);
  for (int64_t step = 1; step <= 3; ++step) {
    (weight * weight * weight).sum().backward();
    const auto gradient = 3 * expected.square();
    m = 0.8 * m + 0.2 * gradient;
    v = 0.9 * v + 0.1 * gradient.square();
    const double t = static_cast<double>(step);
    expected = expected * (1 - 0.05 * 0.1) -
               0.05 * (m / (1 - std::pow(0.8, t))) / ((v / (1 - std::pow(0.9, t))).sqrt() + 1e-8);
    optimizer.step(step, 0.05);
    CHECK((weight.detach() - expected).abs().max().item<double>() < 1e-12);
    CHECK_FALSE(weight.grad().defined());
  }
}

TEST_CASE("losses are kept up to the step that a run goes on behind") {
  Folder folder;
  const auto file = folder / "losses.csv";
  {
    LossFile losses(file, {"loss", "norm"}, 0);
    for (int64_t step = 1; step <= 4; ++step) losses.add(step, {1.0 / static_cast<double>(step), 2});
  }
  LossFile losses(file, {"loss", "norm"}, 2);
  losses.add(3, {7, 8});
  std::ifstream read(file);
  const std::string text{std::istreambuf_iterator<char>(read), {}};
  CHECK(text == "step,loss,norm\n1,1,2\n2,0.5,2\n3,7,8\n");
  losses.plot(folder / "losses.svg");
  CHECK(std::filesystem::file_size(folder / "losses.svg") > 300);
}

TEST_CASE("wrong flags are refused in a sentence") {
  const auto message = [](const Flags& flags) { return message_of([&] { parse_options(flags); }); };
  CHECK(says(message({}), "--task"));
  CHECK(says(message({"--task", "vae"}), "--output_dir"));
  CHECK(says(message({"--task", "t2v", "--output_dir", "x"}), "--vae"));
  const Flags good = {"--task", "vae", "--output_dir", "x"};
  CHECK(says(message(with(good, {"--crop_frames", "8"})), "--crop_frames 8", "4n+1"));
  CHECK(says(message(with(good, {"--frame_size", "40"})), "--frame_size 40", "16"));
  CHECK(says(message(with(good, {"--crop_size", "256"})), "--crop_size 256", "128"));
  CHECK(says(message(with(good, {"--shard", "some"})), "some", "full"));
  CHECK(says(message(with(good, {"--bach_size", "4"})), "--bach_size", "--batch_size", "wan_train"));
  CHECK(says(message(with(good, {"--dim", "100"})), "--dim 100", "12", "--heads 6"));
  CHECK(says(message(with(good, {"--steps", "0"})), "--steps 0", "from 1"));
  CHECK(says(message(with(good, {"--ema", "1"})), "--ema 1", "share"));
  CHECK(says(message(with(good, {"--learning_rate", "fast"})), "'fast'", "--learning_rate 0.001"));
}

TEST_CASE("ranks that cannot share the work are refused in a sentence") {
  const auto message = [](int ranks, const Flags& more) {
    return message_of([&] { check_ranks(parse_options(with(vae_flags("x"), more)), ranks); });
  };
  CHECK(message(4, {}).empty());
  CHECK(says(message(3, {}), "--batch_size 4", "multiple of 3", "3 ranks"));
  CHECK(says(message(4, {"--accumulate", "2"}), "--batch_size 4", "multiple of 8", "--accumulate 2"));
  CHECK(says(message(4, {"--data_parallel_size", "3", "--shard", "full"}), "--data_parallel_size 3",
             "4 ranks"));
  CHECK(says(message(4, {"--data_parallel_size", "2"}), "--data_parallel_size 2", "--shard grad"));
}

}  // namespace training_test
