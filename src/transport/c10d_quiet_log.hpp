#pragma once
#include <c10/util/Flags.h>

#include <cstdlib>
#include <mutex>

C10_DECLARE_int(caffe2_log_level);

namespace wanpar {

/// Errors of the rendezvous are thrown; c10d would also log them, with stack traces, on every rank. The log
/// level is global in the process: the first concurrent rendezvous sets it, the last one restores it.
class QuietLog {
 public:
  QuietLog() {
    std::lock_guard lock(mutex_);
    if (meeting_++ > 0) return;
    before_ = FLAGS_caffe2_log_level;
    if (!std::getenv("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = 3 /* fatal only */;
  }
  ~QuietLog() {
    std::lock_guard lock(mutex_);
    if (--meeting_ == 0) FLAGS_caffe2_log_level = before_;
  }
  QuietLog(const QuietLog&) = delete;
  QuietLog& operator=(const QuietLog&) = delete;

 private:
  static inline std::mutex mutex_;
  static inline int meeting_ = 0, before_ = 0;
};

}  // namespace wanpar
