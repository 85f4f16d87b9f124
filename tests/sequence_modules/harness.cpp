#include <c10/core/AutogradState.h>
#include <fmt/format.h>
#include <sys/wait.h>
#include <torch/autograd.h>
#include <torch/utils.h>
#include <unistd.h>
#include <wanpar/core/error.hpp>
#include <wanpar/core/mesh.hpp>
#include <wanpar/transport/local.hpp>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <sstream>

#include "table.hpp"

namespace sequence_modules {
namespace harness {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kMeshTimeout = std::chrono::seconds(10);
constexpr double kSlow = 5;        // seconds a call
constexpr int kMostSeconds = 100;  // a case

struct Size {
  int ulysses, ring;
  int ranks() const { return ulysses * ring; }
  std::string text() const { return fmt::format("{}x{}", ulysses, ring); }
};

/// Shares of many, of few, of one and of no tokens, even and uneven.
std::vector<int64_t> lengths_on(Size mesh, bool gradients) {
  if (gradients) return {16, 5};
  if (mesh.ranks() == 2) return {37, 16, 8, 5, 3, 2, 1};
  if (mesh.ranks() == 3) return {16, 8, 2};
  return {37, 16, 5, 1};
}

/// How many calls of each shape: the second and third go the way that the first one has found.
int contents_of(int64_t length, bool gradients) {
  if (gradients) return 1;
  return length == 16 ? 3 : 2;
}

struct Call {
  int64_t length;
  int contents;
};

/// What one rank has of one call.
struct Outcome {
  bool thrown = false;
  bool ours = false;  // the error is one of the library
  std::string said;
  Tensors values;     // the result, then gradients
  Tensors arguments;  // afterwards
  double seconds = 0;
};

Tensors arguments_of(const Case& one, Call call, bool gradients) {
  Draw draw(1000 * call.length + call.contents);
  auto arguments = one.inputs(draw, call.length);
  for (auto& x : arguments)
    if (gradients && x.is_floating_point()) x = x.to(at::kDouble).requires_grad_();
  return arguments;
}

/// Of a loss that weighs every element of the result differently.
void add_gradients(Outcome& outcome, const Model& model, const Tensors& arguments) {
  auto result = outcome.values[0];
  outcome.values[0] = result.detach();
  Tensors wanted;
  for (auto& x : arguments)
    if (x.requires_grad()) wanted.push_back(x);
  for (auto& [name, weight] : model.named_parameters())
    if (weight.requires_grad()) wanted.push_back(weight);
  auto weights = at::arange(result.numel(), at::kDouble).mul(0.7).cos().view(result.sizes());
  auto found = torch::autograd::grad({(result * weights).sum()}, wanted, {}, {}, false, true);
  for (size_t i = 0; i < found.size(); ++i)
    outcome.values.push_back(found[i].defined() ? found[i] : at::zeros_like(wanted[i]));
}

Outcome outcome_of(const Case& one, const Model& model, Call call, bool gradients) {
  at::AutoGradMode mode(gradients);
  auto begin = Clock::now();
  Outcome outcome;
  auto arguments = arguments_of(one, call, gradients);
  auto fails = [&](bool ours, std::string said) {
    outcome.thrown = true;
    outcome.ours = ours;
    outcome.said = std::move(said);
  };
  try {
    torch::manual_seed(call.contents);
    auto given = arguments;
    outcome.values = {model.call(given)};
    if (gradients) add_gradients(outcome, model, arguments);
    outcome.values[0] = outcome.values[0].detach().clone();
  } catch (const wanpar::Error& error) {
    fails(true, error.what());
  } catch (const c10::Error& error) {
    fails(false, error.what_without_backtrace());
  } catch (const std::exception& error) {
    fails(false, error.what());
  }
  for (auto& x : arguments) outcome.arguments.push_back(x.detach());
  outcome.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return outcome;
}

Model make(const Case& one, bool gradients) {
  static std::mutex guard;  // modules draw their weights from LibTorch's one generator
  std::lock_guard lock(guard);
  torch::manual_seed(1);
  auto model = one.make();
  if (gradients && model.training_mode()) model.to(at::kDouble);
  return model;
}

/// Infinite where shapes or what is not a number differ.
double apart(const Tensor& actual, const Tensor& expected) {
  constexpr auto kFar = std::numeric_limits<double>::infinity();
  if (actual.sizes() != expected.sizes() || actual.scalar_type() != expected.scalar_type()) return kFar;
  if (actual.numel() == 0) return 0;
  auto a = actual.to(at::kDouble), b = expected.to(at::kDouble);
  if (!at::equal(a.isfinite(), b.isfinite()) || !at::equal(a.isnan(), b.isnan())) return kFar;
  a = a.nan_to_num(), b = b.nan_to_num();
  auto size = b.abs().max().item<double>();
  return (a - b).abs().max().item<double>() / std::max(size, 1e-30);
}

/// Empty where it is what one rank has.
std::string difference(const Outcome& actual, const Outcome& expected, const Tensors& before,
                       bool gradients) {
  double tolerance = gradients ? 1e-9 : 1e-5;
  for (size_t i = 0; i < expected.values.size(); ++i) {
    // A gradient that is nothing but rounding has no size to compare with.
    auto far = apart(actual.values[i], expected.values[i]);
    bool nothing =
        gradients && i && actual.values[i].sizes() == expected.values[i].sizes() &&
        (actual.values[i].numel() == 0 || std::max(actual.values[i].abs().max().item<double>(),
                                                   expected.values[i].abs().max().item<double>()) < 1e-12);
    if (far > tolerance && !nothing)
      return i ? fmt::format("gradient {} by {:.1e}", i - 1, far) : fmt::format("by {:.1e}", far);
  }
  // What the module writes to its arguments: all of it or nothing.
  for (size_t i = 0; i < expected.arguments.size(); ++i)
    if (apart(actual.arguments[i], expected.arguments[i]) > tolerance &&
        apart(actual.arguments[i], before[i].detach()) > tolerance)
      return fmt::format("argument {} was changed by {:.1e}", i,
                         apart(actual.arguments[i], expected.arguments[i]));
  return {};
}

std::vector<Call> calls_on(const Case& one, Size mesh, bool gradients) {
  std::vector<Call> calls;
  for (auto length : lengths_on(mesh, gradients))
    if (std::ranges::count(one.lengths, length))
      for (int contents = 0; contents < contents_of(length, gradients); ++contents)
        calls.push_back({length, contents});
  return calls;
}

/// The outcomes of every rank: [call][rank]. Ends where ranks have parted: what follows would tell nothing.
std::vector<std::vector<Outcome>> on_ranks(const Case& one, Size mesh, const std::vector<Call>& calls,
                                           bool gradients) {
  int ranks = mesh.ranks();
  std::vector<std::vector<Outcome>> outcomes(calls.size(), std::vector<Outcome>(ranks));
  size_t done = 0;
  bool stop = false;
  std::barrier together(ranks, [&]() noexcept {
    auto& all = outcomes[done++];
    for (auto& each : all) stop = stop || each.thrown != all[0].thrown || each.seconds > kSlow;
  });
  wanpar::local::run(ranks,
                     [&](wanpar::Communicator world) {
                       at::set_num_threads(1);
                       wanpar::Mesh axes(world, {{"ring", mesh.ring}, {"ulysses", mesh.ulysses}});
                       Model model = make(one, gradients) |
                                     wanpar::sequence_parallel({.ulysses = axes["ulysses"],
                                                                .ring = axes["ring"],
                                                                .split = one.split,
                                                                .gather = one.gather,
                                                                .balance_causal = one.causal_balanced});
                       for (size_t i = 0; i < calls.size() && !stop; ++i) {
                         outcomes[i][world.rank()] = outcome_of(one, model, calls[i], gradients);
                         together.arrive_and_wait();
                       }
                     },
                     {.timeout = kMeshTimeout});
  outcomes.resize(done);
  return outcomes;
}

// A line for each call goes from the process that runs a case to the one that asked:
// mesh, length, letter (e exact, r refused, o one rank refuses too, W wrong, P parted, S slow), text.
void tell(std::FILE* to, const std::string& mesh, int64_t length, char letter, std::string text = {}) {
  std::ranges::replace_if(
      text, [](char c) { return c == '\n' || c == '\t'; }, ' ');
  fmt::print(to, "{}\t{}\t{}\t{}\n", mesh, length, letter, text.substr(0, 600));
  std::fflush(to);
}

/// One rank's outcomes, by length; the calls of one length are the same on every mesh.
using ByLength = std::map<int64_t, std::vector<Outcome>>;

ByLength on_one_rank(const Case& one, const std::vector<Size>& meshes, bool gradients) {
  std::set<int64_t, std::greater<>> lengths;
  for (auto& mesh : meshes)
    for (auto& call : calls_on(one, mesh, gradients)) lengths.insert(call.length);
  ByLength all;
  auto model = make(one, gradients);
  for (auto length : lengths)
    for (int contents = 0; contents < contents_of(length, gradients); ++contents)
      all[length].push_back(outcome_of(one, model, {length, contents}, gradients));
  return all;
}

void judge(std::FILE* to, const Case& one, const std::string& where, Call call, const Outcome& expected,
           const std::vector<Outcome>& ranks, bool gradients) {
  auto tells = [&](char letter, std::string text) { tell(to, where, call.length, letter, std::move(text)); };
  auto slowest = std::ranges::max(ranks, {}, &Outcome::seconds);
  if (slowest.seconds > kSlow) return tells('S', fmt::format("{:.1f} s: {}", slowest.seconds, slowest.said));
  auto thrown = std::ranges::count_if(ranks, &Outcome::thrown);
  if (thrown && thrown < static_cast<int64_t>(ranks.size())) {
    auto first = std::ranges::find_if(ranks, &Outcome::thrown);
    return tells('P', fmt::format("{} of {} ranks refuse: {}", thrown, ranks.size(), first->said));
  }
  // Every rank has an error, but the groups are out of step for good; without checks it would be a wait.
  for (auto& each : ranks)
    if (each.said.find("make different calls") != std::string::npos) return tells('P', each.said);
  if (std::ranges::any_of(ranks, [](auto& each) { return each.thrown && each.said.size() < 20; }))
    return tells('W', "refused without a sentence: " + ranks[0].said);
  if (thrown) return tells(expected.thrown ? 'o' : 'r', (ranks[0].ours ? "" : "(LibTorch) ") + ranks[0].said);
  // In backward LibTorch looks for writes to what it has kept; other ways to compute keep other tensors.
  if (expected.thrown) return tells(gradients ? 'o' : 'W', "one rank refuses: " + expected.said);
  auto before = arguments_of(one, call, gradients);
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    auto text = difference(ranks[rank], expected, before, gradients);
    if (!text.empty()) return tells('W', fmt::format("rank {} differs {}", rank, text));
  }
  tells('e', "");
}

void run_passes(std::FILE* to, const Case& one, const std::vector<Size>& meshes, bool gradients) {
  auto expected = on_one_rank(one, meshes, gradients);
  for (auto& mesh : meshes) {
    if (one.remembers) expected = on_one_rank(one, {mesh}, gradients);
    auto where = (gradients ? "g" : "") + mesh.text();
    auto calls = calls_on(one, mesh, gradients);
    if (calls.empty()) continue;
    tell(to, where, calls[0].length, '.');  // begun: where a crash was
    auto outcomes = on_ranks(one, mesh, calls, gradients);
    for (size_t i = 0; i < outcomes.size(); ++i)
      judge(to, one, where, calls[i], expected[calls[i].length][calls[i].contents], outcomes[i], gradients);
  }
}

void run_here(std::FILE* to, const Case& one) {
  at::set_num_threads(1);
  try {
    run_passes(to, one, {{2, 1}, {1, 2}, {3, 1}, {1, 4}, {2, 2}}, false);
    if (one.with_gradients) run_passes(to, one, {{2, 1}, {1, 2}, {1, 3}}, true);
  } catch (const std::exception& error) {  // of making or wrapping the module
    tell(to, "made", 0, 'W', error.what());
  }
}

/// "2x1 e 1x2 eeerrr": a letter for each length, one where they are alike.
std::string letters(const std::vector<std::pair<std::string, std::string>>& meshes) {
  std::string text;
  for (auto& [mesh, all] : meshes) {
    bool alike = std::ranges::count(all, all.empty() ? ' ' : all[0]) == static_cast<int64_t>(all.size());
    text += fmt::format("{}{} {}", text.empty() ? "" : "  ", mesh, alike ? all.substr(0, 1) : all);
  }
  return text;
}

void add(Verdict& verdict, char letter, const std::string& where, const std::string& text) {
  if (where[0] == 'g' && letter != 'o') ++verdict.gradients;
  if (letter == 'e') return void(++verdict.exact);
  if (letter == 'o') return void(++verdict.one_rank_refuses);
  if (letter == 'r') {
    ++verdict.refused;
    if (verdict.refusal.empty()) verdict.refusal = text, verdict.refused_at = where;
    return;
  }
  verdict.wrong = verdict.wrong || letter == 'W';
  verdict.parted = verdict.parted || letter == 'P';
  verdict.waited = verdict.waited || letter == 'S';
  verdict.failures.push_back(where + ": " + text);
}

/// The worst of the calls of one length.
char worse(char a, char b) {
  const std::string order = "eorWPS";
  return order.find(a) > order.find(b) ? a : b;
}

Verdict read(std::FILE* from, bool verbose) {
  Verdict verdict;
  std::vector<std::pair<std::string, std::string>> meshes;
  std::string last_mesh, last_length;
  std::array<char, 1024> line;
  while (std::fgets(line.data(), line.size(), from)) {
    std::istringstream parts(line.data());
    std::string mesh, length, letter, text;
    std::getline(parts, mesh, '\t'), std::getline(parts, length, '\t'), std::getline(parts, letter, '\t');
    std::getline(parts, text);
    if (verbose) fmt::print("    {} n={} {} {}\n", mesh, length, letter, text);
    if (mesh != last_mesh) meshes.emplace_back(mesh, "");
    if (letter != ".") {
      if (length == last_length && mesh == last_mesh && !meshes.back().second.empty())
        meshes.back().second.back() = worse(meshes.back().second.back(), letter[0]);
      else
        meshes.back().second += letter[0];
      add(verdict, letter[0], fmt::format("{} n={}", mesh, length), text);
      last_length = length;
    } else {
      last_length.clear();
    }
    last_mesh = mesh;
  }
  verdict.meshes = letters(meshes);
  return verdict;
}

}  // namespace
}  // namespace harness

Verdict run_alone(const Case& one) {
  bool verbose = std::getenv("SEQUENCE_VERBOSE") != nullptr;
  std::array<int, 2> ends;
  if (pipe(ends.data())) throw std::runtime_error("no pipe");
  std::fflush(nullptr);
  auto child = fork();
  if (child == 0) {
    close(ends[0]);
    alarm(harness::kMostSeconds);
    auto* to = fdopen(ends[1], "w");
    harness::run_here(to, one);
    std::fclose(to);
    _exit(0);  // nothing of the other process is to be ended twice
  }
  close(ends[1]);
  auto* from = fdopen(ends[0], "r");
  auto verdict = harness::read(from, verbose);
  std::fclose(from);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) {
    bool late = WTERMSIG(status) == SIGALRM;
    (late ? verdict.waited : verdict.crashed) = true;
    verdict.failures.push_back(fmt::format("ended by signal {} ({}) in: {}", WTERMSIG(status),
                                           strsignal(WTERMSIG(status)), verdict.meshes));
  }
  return verdict;
}

}  // namespace sequence_modules
