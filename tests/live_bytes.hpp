#pragma once
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

/// Bytes of CPU tensors that the thread has asked the allocator for while this lives, and that nobody has
/// given back: what a thread rank holds, whatever its tensors say of themselves.
class LiveBytes {
 public:
  /// Counts allocations of at least so many bytes.
  explicit LiveBytes(size_t least = 0) : before_(std::exchange(counting(), this)), least_(least) {}
  ~LiveBytes() { counting() = before_; }
  LiveBytes(const LiveBytes&) = delete;
  LiveBytes& operator=(const LiveBytes&) = delete;

  int64_t now() const { return count_->now; }
  int64_t most() const { return count_->most; }
  /// most() counts from here on.
  void reset() { count_->most = count_->now.load(); }

 private:
  struct Count {
    std::atomic<int64_t> now = 0, most = 0;  // any thread may give back
  };
  struct Lease {
    std::shared_ptr<Count> count;
    int64_t bytes;
  };

  /// The allocator that was there before, with a book of what is counted.
  class Counting : public c10::Allocator {
   public:
    Counting() { c10::SetCPUAllocator(this); }

    c10::DataPtr allocate(size_t bytes) override {
      auto memory = inner_->allocate(bytes);
      auto* live = counting();
      if (!live || bytes < live->least_) return memory;
      auto now = live->count_->now += static_cast<int64_t>(bytes);
      live->count_->most = std::max<int64_t>(live->count_->most, now);
      auto* address = memory.release_context();
      std::lock_guard lock(mutex_);
      leases_[address] = {live->count_, static_cast<int64_t>(bytes)};
      return {address, address, give_back, c10::kCPU};
    }
    c10::DeleterFnPtr raw_deleter() const override { return give_back; }
    void copy_data(void* to, const void* from, size_t bytes) const override {
      default_copy_data(to, from, bytes);
    }

   private:
    static void give_back(void* address) {
      {
        std::lock_guard lock(allocator_.mutex_);
        if (auto lease = allocator_.leases_.extract(address))
          lease.mapped().count->now -= lease.mapped().bytes;
      }
      allocator_.inner_->raw_deleter()(address);
    }

    c10::Allocator* inner_ = c10::GetCPUAllocator();
    std::mutex mutex_;
    std::unordered_map<void*, Lease> leases_;
  };
  static Counting& allocator_;

  static LiveBytes*& counting() {
    thread_local LiveBytes* current = nullptr;
    return current;
  }

  LiveBytes* before_;
  size_t least_;
  std::shared_ptr<Count> count_ = std::make_shared<Count>();
};

/// From before there are threads, and for longer than any tensor.
inline LiveBytes::Counting& LiveBytes::allocator_ = *new Counting;
