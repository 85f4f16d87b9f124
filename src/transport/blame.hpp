#pragma once
#include <map>
#include <string>

namespace wanpar {

/// The state in which a rank of the run was found, the most telling first.
enum class State { ended, left, silent, behind, here };
using States = std::map<int, State>;  // by rank of the run

/// Decides which rank to blame if several are gone: a rank that gives up because of another one tells whom it
/// blames, so that ranks which find it gone can name the first cause.
class Blame {
 public:
  /// A rank has reported which ranks it found lost.
  void hear(int teller, States blamed) { told_[teller] = std::move(blamed); }

  /// Of `some` ranks, found by `self`: those that did not end because of another one; of these, those in the
  /// most telling state. `found` has the states of all ranks.
  States of(const States& some, const States& found, int self) const;

 private:
  std::map<int, States> told_;  // by whom
};

/// "ended, and was probably killed or crashed": the state of the blamed ranks, which is the same for all.
std::string how(const States& blamed);

}  // namespace wanpar
