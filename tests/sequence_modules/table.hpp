#pragma once
#include <ATen/ATen.h>
#include <wanpar/module/model.hpp>
#include <wanpar/strategy/sequence_parallel.hpp>

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// Modules as their authors write them, who never heard of ranks. Every call of every one of them under
/// SequenceParallel must be what one rank gives, or an error on every rank.
namespace sequence_modules {

using at::Tensor;
using wanpar::GatherOutput;
using wanpar::Model;
using wanpar::SplitInput;
using Tensors = std::vector<Tensor>;
using Shape = std::vector<int64_t>;

enum class Expected {
  exact,    ///< a refusal is a needless one
  refused,  ///< cannot be carried; exact is as good
  either,   ///< nobody has decided
  unseen,   ///< cannot be noticed from within LibTorch, so it may be wrong: it is only told of
};
inline constexpr auto exact = Expected::exact, refused = Expected::refused, either = Expected::either,
                      unseen = Expected::unseen;

/// Normal numbers, the same on every rank.
class Draw {
 public:
  explicit Draw(int64_t seed) : generator_(at::make_generator<at::CPUGeneratorImpl>(seed)) {}
  Tensor operator()(Shape shape) { return at::randn(shape, generator_); }
  /// A weight that keeps the size of what it is multiplied with.
  Tensor weight(Shape shape) { return (*this)(shape) / 4; }
  Tensor integers(int64_t below, Shape shape) { return at::randint(below, shape, generator_, at::kLong); }

 private:
  at::Generator generator_;
};

using Inputs = std::function<Tensors(Draw&, int64_t length)>;

struct Case {
  std::string name, kind;
  Expected expected = exact;
  std::function<Model()> make = {};  ///< one for each rank, all alike
  Inputs inputs = {};
  std::vector<SplitInput> split = {{0, 1}};
  std::vector<GatherOutput> gather = {};
  std::vector<int64_t> lengths = {37, 16, 8, 5, 4, 3, 2, 1};
  bool causal_balanced = false;
  bool with_gradients = true;
  bool remembers = false;  ///< earlier calls change later ones, so one rank must make the same calls

  Case& at(std::vector<SplitInput> cuts) { return split = std::move(cuts), *this; }
  Case& joined(int64_t dim) { return gather = {{dim}}, *this; }
  Case& of(std::vector<int64_t> some) { return lengths = std::move(some), *this; }
  Case& balanced() { return causal_balanced = true, *this; }
  Case& stateful() { return remembers = true, *this; }
  Case& no_gradients() { return with_gradients = false, *this; }
};

class Table {
 public:
  /// What is added from here on is of this kind.
  void kind(std::string name) { kind_ = std::move(name); }
  /// A function of its arguments alone.
  template <class F>
  Case& add(std::string name, Expected expected, F module, Inputs inputs) {
    return made(
        std::move(name), expected, [module] { return Model(module); }, std::move(inputs));
  }
  /// A module with weights or a state.
  Case& made(std::string name, Expected expected, std::function<Model()> make, Inputs inputs) {
    Case one{std::move(name), kind_, expected, std::move(make), std::move(inputs)};
    one.with_gradients = expected == exact;
    return cases.emplace_back(std::move(one));
  }

  std::deque<Case> cases;

 private:
  std::string kind_;
};

// The arguments of most modules.
inline constexpr int64_t kWidth = 16, kHeads = 4;

/// Tokens [2, n, 16], then weights.
inline Inputs tokens(std::vector<Shape> weights = {}) {
  return [weights](Draw& draw, int64_t n) {
    Tensors all{draw({2, n, kWidth})};
    for (auto& shape : weights) all.push_back(draw.weight(shape));
    return all;
  };
}
/// The same with a batch of one.
inline Inputs one_sample(std::vector<Shape> weights = {}) {
  return [weights](Draw& draw, int64_t n) {
    Tensors all{draw({1, n, kWidth})};
    for (auto& shape : weights) all.push_back(draw.weight(shape));
    return all;
  };
}

// Attention as everybody writes it.
inline Tensor heads(const Tensor& x, int64_t count = kHeads) {
  return x.unflatten(-1, {count, x.size(-1) / count}).transpose(1, 2);
}
inline Tensor merge(const Tensor& x) { return x.transpose(1, 2).flatten(2); }
inline Tensor sdpa(const Tensor& q, const Tensor& k, const Tensor& v, const std::optional<Tensor>& mask = {},
                   bool causal = false, bool grouped = false) {
  return at::scaled_dot_product_attention(q, k, v, mask, 0.0, causal, std::nullopt, grouped);
}
inline Tensor attend(const Tensor& x, const std::optional<Tensor>& mask = {}, bool causal = false) {
  auto h = heads(x);
  return merge(sdpa(h, h, h, mask, causal));
}
inline Tensor unit_norm(const Tensor& x) { return at::layer_norm(x, {x.size(-1)}); }

// The cases, by topic.
void blocks(Table& table);
void torch_nn(Table& table);
void joint(Table& table);
void positions(Table& table);
void masks(Table& table);
void shapes(Table& table);
void ends(Table& table);
void buffers(Table& table);
void hidden(Table& table);
void convolutions(Table& table);
void video(Table& table);
void operators(Table& table);
void scripts(Table& table);
void broadcasts(Table& table);
void lengths(Table& table);
void views(Table& table);

/// What became of one case.
struct Verdict {
  int64_t exact = 0, refused = 0, one_rank_refuses = 0;
  int64_t gradients = 0;              ///< calls with gradients that one rank can make
  std::vector<std::string> failures;  ///< wrong, parted, slow, crashed: where, and what
  std::string meshes;                 ///< "2x1 e 1x2 eeeerrr"
  std::string refusal, refused_at;    ///< the first sentence
  bool wrong = false, parted = false, waited = false, crashed = false;
};

/// In a process of its own, so that a crash or a wait ends this case only.
Verdict run_alone(const Case& one);

}  // namespace sequence_modules
