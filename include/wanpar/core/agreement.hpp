#pragma once
#include <wanpar/core/communicator.hpp>

#include <functional>
#include <string>
#include <vector>

// Checks on which all ranks must agree: each function is collective, and throws on all ranks or on none.
namespace wanpar {

/// Collective. Runs a local `action` on each rank. If it throws on any, every rank throws AgreedError with
/// the message of the first rank that failed. A group of one rethrows the original exception.
void all_or_none(const Communicator& group, const std::function<void()>& action);

/// Collective. Broadcasts the text that `root` makes; if make() throws, every rank throws AgreedError with
/// its message. Moves 1 KiB, whatever the length; a longer text is rejected.
std::string broadcast_text(const Communicator& group, int root, const std::function<std::string()>& make);

/// Collective. The texts of all ranks, in rank order.
std::vector<std::string> all_gather_text(const Communicator& group, const std::string& text);

/// Collective. Whether `is_so` is true on any rank.
bool on_any_rank(const Communicator& group, bool is_so);

/// Collective. Throws AgreedError on every rank of all groups if the ranks' `lines` differ, with the first
/// line that does; `who` starts the message, `what` says what the lines are, `advice` ends it. `groups` are
/// the axes of a grid of ranks, in the same order everywhere. Moves 24 bytes per group if the ranks agree.
void require_same(const std::string& who, const std::string& what, const std::vector<Communicator>& groups,
                  const std::string& lines, const std::string& advice = {});

/// Ranks that decide locally vote before every exchange, and once more at the end. If one fails, it refuses
/// in place of its next vote, so that all ranks throw instead of hanging. A vote moves 24 bytes per group of
/// the grid.
class Vote {
 public:
  /// `who` starts the error messages.
  Vote(std::string who, std::vector<Communicator> grid) : who_(std::move(who)), grid_(std::move(grid)) {}

  /// Collective. Throws AgreedError unless all ranks vote at the same `path`, with the same `fingerprint` of
  /// what they have done so far.
  void go_on(const std::string& path, int64_t fingerprint = 0) const;
  /// Collective with the others' go_on(), which then throws: this rank has failed.
  void refuse() const;

 private:
  at::Tensor greatest(at::Tensor x) const;
  int64_t position() const;

  std::string who_;
  std::vector<Communicator> grid_;  // the innermost axis first
};

}  // namespace wanpar
