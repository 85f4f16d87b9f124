#include <doctest/doctest.h>
#include <fmt/format.h>
#include <sys/resource.h>

#include <cstdlib>
#include <map>
#include <set>

#include "table.hpp"

// SEQUENCE_CASE=kv_buffer  runs the cases (or kinds) whose names begin so; several are parted by commas
// SEQUENCE_VERBOSE=1       tells every call
namespace sequence_modules {
namespace sequence_modules_test {
namespace {

/// Cases that should be exact and may be refused, and why: {"nn_multihead", "LibTorch's own compares
/// values"}.
const std::map<std::string, std::string> kKnownRefusals = {
    {"own_function_pointwise",
     "nobody sees into the backward of a function of the module's own: whether it goes token by token"},
    {"gradient_hook_scaled",
     "a hook is a function of the module's own, which nobody sees into: whether it scales or clips"},
};

Table all_cases() {
  Table table;
  for (auto* topic : {blocks, torch_nn, joint, positions, masks, shapes, ends, buffers, hidden, convolutions,
                      video, operators, scripts, broadcasts, lengths, views})
    topic(table);
  return table;
}

bool wanted(const Case& one) {
  auto* names = std::getenv("SEQUENCE_CASE");
  if (!names) return true;
  std::istringstream parts(names);
  for (std::string name; std::getline(parts, name, ',');)
    if (one.name.starts_with(name) || one.kind.starts_with(name)) return true;
  return false;
}

std::string word(const Case& one, const Verdict& v) {
  if (v.crashed) return "CRASH";
  if (v.waited) return "WAIT";
  if (v.parted) return "PARTED";
  if (v.wrong) return one.expected == unseen ? "unseen" : "WRONG";
  if (v.refused && one.expected == exact) return v.exact ? "needless (some)" : "needless";
  if (v.refused) return v.exact ? "exact/refused" : "refused";
  return "exact";
}

double cpu_seconds() {
  double sum = 0;
  for (int who : {RUSAGE_SELF, RUSAGE_CHILDREN}) {
    rusage used;
    getrusage(who, &used);
    sum +=
        used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
  }
  return sum;
}

const char* name_of(Expected expected) {
  return std::array{"exact", "refused", "either", "unseen"}[static_cast<int>(expected)];
}

void print(const Case& one, const Verdict& v, const std::string& said) {
  fmt::print("{:<34} {:<12} {:<8} {:<16} {}\n", one.name, one.kind, name_of(one.expected), said, v.meshes);
  if (!v.failures.empty())
    fmt::print("      {} failures, first: {}\n", v.failures.size(), v.failures[0].substr(0, 260));
  if (!v.refusal.empty()) fmt::print("      {}: {}\n", v.refused_at, v.refusal.substr(0, 260));
  std::fflush(stdout);
}

void list(const std::string& title, const std::vector<std::string>& lines) {
  if (!lines.empty()) fmt::print("\n{}: {}\n", title, lines.size());
  for (auto& line : lines) fmt::print("  {}\n", line);
}

}  // namespace

TEST_CASE("every call of modules that nobody here wrote is what one rank gives, or an error on every rank") {
  auto table = all_cases();
  std::set<std::string> names;
  std::map<std::string, int> counts;
  std::vector<std::string> wrong, needless, known, untold;
  int64_t calls = 0, ran = 0;
  for (auto& one : table.cases) {
    CHECK_MESSAGE(names.insert(one.name).second, "two cases are named ", one.name);
    if (!wanted(one)) continue;
    auto verdict = run_alone(one);
    auto said = word(one, verdict);
    print(one, verdict, said);
    ++counts[said], ++ran;
    calls += verdict.exact + verdict.refused + verdict.one_rank_refuses + verdict.failures.size();
    auto line = [&](const std::string& text) {
      return fmt::format("{:<32} {:<16} {}", one.name, said, text.substr(0, 200));
    };
    if (verdict.exact + verdict.refused == 0 && verdict.failures.empty())
      wrong.push_back(line("nothing was tried: one rank refuses"));
    else if (verdict.crashed || verdict.waited || verdict.parted || (verdict.wrong && one.expected != unseen))
      wrong.push_back(line(verdict.failures[0]));
    else if (one.with_gradients && verdict.gradients == 0)
      wrong.push_back(line("no gradient was tried: one rank refuses"));
    else if (said.starts_with("needless"))
      (kKnownRefusals.contains(one.name) ? known : needless)
          .push_back(line(verdict.refused_at + ": " + verdict.refusal));
    if (verdict.refusal.starts_with("(LibTorch)"))
      untold.push_back(line(verdict.refused_at + ": " + verdict.refusal));
  }
  fmt::print("\n{} modules, {} calls, {:.0f} s of CPU\n", ran, calls, cpu_seconds());
  for (auto& [said, count] : counts) fmt::print("{:>5} {}\n", count, said);
  list("refused in LibTorch's words, which say nothing of ranks", untold);
  list("refused needlessly, as is known", known);
  list("refused needlessly", needless);
  list("wrong, crashed, waited, or refused on some ranks only", wrong);
  CHECK_MESSAGE(needless.empty(), needless.size(), " modules are refused needlessly (listed above)");
  CHECK_MESSAGE(wrong.empty(), wrong.size(), " modules are wrong (listed above)");
}

}  // namespace sequence_modules_test
}  // namespace sequence_modules
