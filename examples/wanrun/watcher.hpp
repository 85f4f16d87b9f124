#pragma once
#include <sys/types.h>

namespace wanrun {

/// A process that outlives the launcher by a moment: where that is gone without having dismissed it, even by
/// SIGKILL, it ends every process group that it was told of, and so whatever a rank had started.
class Watcher {
 public:
  Watcher();
  ~Watcher();  // dismisses it
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;

  /// To be called by the process that leads the group, before it starts anything.
  void watch(pid_t group) const;

 private:
  pid_t id_;
  int to_;  // its pipe
};

}  // namespace wanrun
