#include <ATen/ATen.h>

#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <wanpar/files/safetensors.hpp>

#include "wan/fixture.hpp"
#include "wan/io/checkpoint.hpp"
#include "wan/io/load.hpp"
#include "wan/text/clean.hpp"
#include "wan/text/encode.hpp"
#include "wan/text/negative_prompt.hpp"
#include "wan/text/tokenizer.hpp"
#include "wan/text/umt5.hpp"

using wan_test::message_of;
using wan_test::says;

namespace text_test {
namespace {

nlohmann::json manifest() { return nlohmann::json::parse(std::ifstream(TEST_DATA "/manifest.json")); }

const wan::Checkpoint& checkpoint() {
  static const wan::Checkpoint checkpoint(TEST_DATA "/diffusers");
  return checkpoint;
}

const std::map<std::string, at::Tensor>& reference() {
  static const auto tensors = wanpar::read_safetensors(TEST_DATA "/reference.safetensors");
  return tensors;
}

at::Tensor reference(const std::string& name, size_t prompt) {
  return reference().at(fmt::format("{}.{}", name, prompt));
}

std::vector<std::string> prompts() { return manifest().at("prompts").get<std::vector<std::string>>(); }

wan::Umt5 encoder() {
  wan::Umt5 encoder(checkpoint().text_encoder_config());
  wan::load(*encoder, checkpoint().text_encoder(), {});
  return encoder;
}

}  // namespace

TEST_CASE("clean: the reference's prompts become what ftfy and html.unescape make of them") {
  const auto data = manifest();
  for (size_t i = 0; i < data.at("prompts").size(); ++i) {
    CHECK(wan::clean(data.at("prompts")[i].get<std::string>()) == data.at("clean")[i].get<std::string>());
  }
}

TEST_CASE("clean: each step, against what the Python pipelines give") {
  const std::pair<std::string, std::string> cases[] = {
      {"", ""},
      {" \t\u00a0\n ", ""},
      {"cafÃ© noir", "café noir"},
      {"Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "привет"},
      {"Ãƒâ€šÃ‚Â°", "°"},
      {"CAFÉ” and “À la”", "CAFÉ\" and \"À la\""},
      {"naïve Ärger ñandú", "naïve Ärger ñandú"},
      {"&copy 2020 &notit; &#x41;&#66 &#128; &#0; &bogus; &lang;x&rang;",
       "© 2020 ¬it; AB € \ufffd &bogus; ⟨x⟩"},
      {"It&apos;s 5 &gt; 3 &Auml;", "It's 5 > 3 Ä"},
      {"&amp;lt;b&amp;gt; <i>&amp;ldquo;", "<b> <i>“"},
      {"\ufb01ne \ufb02ow \u0133s \u01c4 \u0149", "fine flow ijs DŽ 'n"},
      {"\uff8a\uff9e\uff76\u3000\uff08ok\uff09\uff01\uffe5", "バカ (ok)!¥"},
      {"e\u0301 \u212b", "é Å"},
      {"a\u200bb \ufeffc \x07"
       "d\x1b[31mred\x1b[0m",
       "a\u200bb c dred"},
      {"l1\r\nl2\u2028l3\u0085l4", "l1 l2 l3…l4"},
      {"’quoted‘ „low“ ‚x‛ ″", "'quoted' \"low\" 'x' ″"},
      {"\u0091smart\u0092", "'smart'"},
      {"…—「」、。", "…—「」、。"},
  };
  for (const auto& [dirty, expected] : cases) CHECK(wan::clean(dirty) == expected);
}

TEST_CASE("clean: text that is not UTF-8 is refused with the place") {
  CHECK(says(message_of([] { wan::clean("abc\xff"); }), "byte 3", "UTF-8"));
}

TEST_CASE("tokenizer: ids equal the reference's") {
  const wan::Tokenizer tokenizer(checkpoint().tokenizer());
  const auto all = prompts();
  for (size_t i = 0; i < all.size(); ++i) {
    CHECK(at::equal(at::tensor(wan::cut(tokenizer.encode(all[i]), 512)), reference("text.ids", i)));
  }
  CHECK(tokenizer.encode("") == std::vector<int64_t>{1});
  CHECK(wan::cut(tokenizer.encode(wan::kNegativePrompt), 5).size() == 5);
  CHECK(wan::cut({7, 8, 9, 1}, 3) == std::vector<int64_t>{7, 8, 1});
  CHECK(wan::cut({7, 8, 1}, 3) == std::vector<int64_t>{7, 8, 1});
}

TEST_CASE("tokenizer: tokenizer.json and the SentencePiece model give the same ids") {
  const wan::Tokenizer json(TEST_DATA "/diffusers/tokenizer/tokenizer.json");
  const wan::Tokenizer model(TEST_DATA "/diffusers/tokenizer/spiece.model");
  for (const auto& prompt : prompts()) CHECK(json.encode(prompt) == model.encode(prompt));
}

TEST_CASE("tokenizer: ids equal those of transformers, special tokens and unknown letters among them") {
  const auto cases = nlohmann::json::parse(std::ifstream(TEST_DATA "/tokenizers.json"));
  wan_test::Folder folder;
  for (const auto& tokenizer : cases) {
    std::ofstream(folder / "tokenizer.json") << tokenizer.at("tokenizer");
    const wan::Tokenizer ours(folder / "tokenizer.json");
    for (const auto& [text, ids] : tokenizer.at("ids").items()) {
      CAPTURE(text);
      CHECK(ours.encode(text) == ids.get<std::vector<int64_t>>());
    }
  }
}

TEST_CASE("tokenizer: a file that is no model is named") {
  CHECK(says(message_of([] { wan::Tokenizer(TEST_DATA "/manifest.json"); }), "manifest.json",
             "'model' is missing"));
  CHECK(says(message_of([] { wan::Tokenizer(TEST_DATA "/pth/plain.pth"); }), "plain.pth", "SentencePiece"));
}

TEST_CASE("tokenizer: a SentencePiece model that is cut, or lacks what umT5's has, is refused") {
  std::ifstream stream(TEST_DATA "/diffusers/tokenizer/spiece.model", std::ios::binary);
  const std::string good{std::istreambuf_iterator<char>(stream), {}};
  wan_test::Folder folder;
  const auto refusal = [&](const std::string& bytes) {
    std::ofstream(folder / "spiece.model", std::ios::binary) << bytes;
    return message_of([&] { wan::Tokenizer(folder / "spiece.model").encode("a cat"); });
  };
  const auto changed = [&](const std::string& from, const std::string& to) {
    auto bytes = good;
    return refusal(bytes.replace(bytes.find(from), from.size(), to));
  };
  CHECK(refusal(good).empty());
  CHECK(says(changed("</s>", "</z>"), "spiece.model has no token '</s>'"));
  for (size_t size = 1; size < good.size(); size += 97) refusal(good.substr(0, size));  // no crash
  CHECK(says(refusal(good.substr(0, 20)), "spiece.model", "ends too early"));
}

TEST_CASE("umT5: distances fall into the reference's buckets") {
  const auto expected = reference().at("text.buckets");  // of the distances -200 to 200
  const auto buckets = wan::relative_position_buckets(201, {}, at::kCPU);
  CHECK(at::equal(buckets[0], expected.narrow(0, 200, 201)));
  CHECK(at::equal(buckets[200], expected.narrow(0, 0, 201)));
}

TEST_CASE("umT5: padding behind a prompt changes nothing") {
  const c10::InferenceMode guard;
  auto model = encoder();
  const auto ids = reference("text.ids", 0);
  const auto padding = 512 - ids.size(0);
  const auto mask = at::constant_pad_nd(at::ones_like(ids), {0, padding});
  const auto encoding = model(at::constant_pad_nd(ids, {0, padding}).unsqueeze(0), mask.unsqueeze(0));
  CHECK(at::allclose(encoding[0].narrow(0, 0, ids.size(0)), reference("text.embeds", 0), 1e-4, 1e-5));
}

TEST_CASE("encode_text: prompts of any length, together and alone, equal the reference, with zeros behind") {
  const c10::InferenceMode guard;
  auto model = encoder();
  const wan::Tokenizer tokenizer(checkpoint().tokenizer());
  const auto all = prompts();
  std::vector<std::vector<int64_t>> ids;
  for (const auto& prompt : all) ids.push_back(wan::cut(tokenizer.encode(prompt), 512));
  const auto together = wan::encode_text(model, ids);
  REQUIRE((together.sizes() == at::IntArrayRef{static_cast<int64_t>(all.size()), 512, 64}));
  for (size_t i = 0; i < all.size(); ++i) {
    const auto rows = reference("text.embeds", i);
    const auto expected = at::constant_pad_nd(rows, {0, 0, 0, 512 - rows.size(0)});
    CHECK(at::allclose(together[static_cast<int64_t>(i)], expected, 1e-4, 1e-5));
    CHECK(at::allclose(wan::encode_text(model, {ids[i]})[0], expected, 1e-4, 1e-5));
  }
  const auto behind = together[2].narrow(0, 1, 511);  // the empty prompt is one token
  CHECK(at::equal(behind, at::zeros_like(behind)));
}

}  // namespace text_test
