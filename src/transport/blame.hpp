#pragma once
#include <map>
#include <string>

namespace wanpar {

/// How a rank of the run was found, what says most first.
enum class State { ended, left, silent, behind, here };
using States = std::map<int, State>;  // by rank of the run

/// Who is to blame where several ranks are gone: who gives up because of another one says whom it blames, so
/// that whoever finds it gone hears of the one before.
class Blame {
 public:
  /// A rank has told whom it found lost.
  void hear(int teller, States blamed) { told_[teller] = std::move(blamed); }

  /// Of some ranks, found by `self`, those that did not end because of another; of these, those of whom the
  /// worst is known. `found` is how all ranks were.
  States of(const States& some, const States& found, int self) const;

 private:
  std::map<int, States> told_;  // by whom
};

/// "ended, and was probably killed or crashed": of those who are to blame, all found alike.
std::string how(const States& blamed);

}  // namespace wanpar
