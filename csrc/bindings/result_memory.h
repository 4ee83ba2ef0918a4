// Memory of large results of the numpy functions, kept for the next ones.
#pragma once

#include <algorithm>
#include <cstddef>
#include <mutex>
#include <new>
#include <vector>

#include "bindings/huge_pages.h"

namespace weebill::bindings {

/// A few freed blocks. The allocator gives blocks of this size back to the system, and then the
/// first writes to every result are page faults: 0.25 ms for 0.8 MB on a Zen 5, four times what a
/// first convolution takes. Loops over images ask for the same size again and again.
class ResultMemory {
 public:
  static constexpr std::size_t kAlignment = 64;

  /// Never destroyed: arrays may live longer than anything static.
  static ResultMemory& instance() {
    static auto* const memory = new ResultMemory;
    return *memory;
  }

  /// `bytes` on a multiple of kAlignment, not initialised. Throws std::bad_alloc.
  void* take(std::size_t bytes) {
    if (bytes >= kLeast) {
      const std::lock_guard<std::mutex> lock(mutex_);
      // The last one that came back is the likeliest to be in a cache.
      const auto found = std::find_if(kept_.rbegin(), kept_.rend(),
                                      [bytes](const Header* h) { return h->bytes == bytes; });
      if (found != kept_.rend()) {
        Header* const header = *found;
        kept_.erase(std::next(found).base());
        total_ -= bytes;
        return header + 1;
      }
    }
    void* const block = ::operator new(sizeof(Header) + bytes, std::align_val_t{kAlignment});
    Header* const header = new (block) Header{bytes};
    advise_huge_pages(header + 1, bytes);
    return header + 1;
  }

  /// What take() gave.
  void give_back(void* data) {
    Header* const header = static_cast<Header*>(data) - 1;
    if (header->bytes < kLeast || header->bytes > kMost) return destroy(header);
    const std::lock_guard<std::mutex> lock(mutex_);
    kept_.push_back(header);
    total_ += header->bytes;
    while (kept_.size() > kBlocks || total_ > kMost) {
      total_ -= kept_.front()->bytes;
      destroy(kept_.front());
      kept_.erase(kept_.begin());
    }
  }

 private:
  /// In front of the memory.
  struct alignas(kAlignment) Header {
    std::size_t bytes;
  };
  /// What glibc's malloc may give back at once, in all that is kept, and in how many blocks.
  static constexpr std::size_t kLeast = std::size_t{128} << 10, kMost = std::size_t{32} << 20;
  static constexpr std::size_t kBlocks = 4;

  static void destroy(Header* header) {
    ::operator delete(static_cast<void*>(header), std::align_val_t{kAlignment});
  }

  std::mutex mutex_;
  std::vector<Header*> kept_;  // the oldest first
  std::size_t total_ = 0;      // bytes of them
};

}  // namespace weebill::bindings
