#pragma once
#include <wanpar/core/communicator.hpp>

#include <functional>
#include <string>
#include <vector>

// What ranks must find alike before they go on: each function is collective, and throws on all ranks or on
// none.
namespace wanpar {

/// Collective. Runs what each rank does for itself, and lets none go on where it failed on one: then every
/// rank throws AgreedError with the sentence of the first rank that failed. A group of one throws what was
/// thrown.
void all_or_none(const Communicator& group, const std::function<void()>& action);

/// Collective. What `root` makes of a text, on every rank; why it could not, as an AgreedError on every rank.
/// Moves 1 KiB, whatever it says: a longer text is refused.
std::string broadcast_text(const Communicator& group, int root, const std::function<std::string()>& make);

/// Collective. The texts of all ranks, in their order.
std::vector<std::string> all_gather_text(const Communicator& group, const std::string& text);

/// Collective. Whether it is so on some rank.
bool on_any_rank(const Communicator& group, bool is_so);

/// Collective. Throws AgreedError on every rank of all groups where the ranks' lines of text differ, and
/// names the first line that does; `who` begins the sentence, `what` says what the lines are, `advice` ends
/// it. The groups are those of a grid that this rank is in, in the same order everywhere. Moves 24 bytes a
/// group where they agree.
void require_same(const std::string& who, const std::string& what, const std::vector<Communicator>& groups,
                  const std::string& lines, const std::string& advice = {});

/// Ranks that judge by what each of them sees vote before they exchange what they cannot take back. Every
/// exchange has a vote before it, and the whole has one behind it, so that a rank that fails anywhere finds
/// the others at the next one. Each moves 24 bytes over each group of the grid.
class Vote {
 public:
  /// `who` begins the sentences.
  Vote(std::string who, std::vector<Communicator> grid) : who_(std::move(who)), grid_(std::move(grid)) {}

  /// Collective. Throws AgreedError unless all ranks have come here by the same `path`, with the same number
  /// for what they did on it.
  void go_on(const std::string& path, int64_t fingerprint = 0) const;
  /// Collective with the others' go_on, which throws there: this rank has failed.
  void refuse() const;

 private:
  at::Tensor greatest(at::Tensor x) const;
  int64_t position() const;

  std::string who_;
  std::vector<Communicator> grid_;  // the innermost axis first
};

}  // namespace wanpar
