#pragma once
#include <c10/util/Flags.h>

#include <cstdlib>
#include <mutex>

C10_DECLARE_int(caffe2_log_level);

namespace wanpar {

/// What goes wrong where ranks meet is thrown; c10d would log it as well, with stack traces, on every rank.
/// The level is the process's: the first of those who meet at the same time sets it, the last one puts it
/// back.
class QuietLog {
 public:
  QuietLog() {
    std::lock_guard lock(mutex_);
    if (meeting_++ > 0) return;
    before_ = FLAGS_caffe2_log_level;
    if (!std::getenv("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = 3 /* fatal alone */;
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
