// Buffers between two pages without access. Data ends exactly at the second page (Flush::kEnd) or
// starts exactly at the first (Flush::kStart), so one byte read or written too far faults at once,
// in assembly and release builds too. What is left of the data's pages holds a poison that is NaN
// as a float and a wild value as an offset or a pointer; intact() tells whether it was written to.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>

#include "simd/half.h"

namespace weebill::testing {

enum class Flush { kEnd, kStart };

inline const char* flush_name(Flush flush) { return flush == Flush::kEnd ? "end" : "start"; }

/// A quiet NaN with a payload that no arithmetic makes.
constexpr std::uint32_t kPoison = 0x7fc0dead;

inline bool is_poison(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits == kPoison;
}

/// Of its halves: they lie on even addresses.
inline bool is_poison(Half value) {
  return value.bits == (kPoison & 0xffff) || value.bits == kPoison >> 16;
}

inline std::size_t page_bytes() {
  static const std::size_t bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

/// The live buffers, for the signal handler: a plain array, no allocation, no locks.
struct LiveBuffer {
  const char* name;
  const std::byte* begin;
  const std::byte* end;
};
inline std::array<LiveBuffer, 256>& live_buffers() {
  static std::array<LiveBuffer, 256> buffers{};
  return buffers;
}

/// Untyped part: the pages, the poison around the data and the entry for the signal handler. Not
/// thread-safe; tests make their buffers on the main thread.
class GuardedBytes {
 public:
  GuardedBytes(const char* name, std::size_t bytes, Flush flush, std::size_t alignment)
      : bytes_(bytes), pages_(1 + (bytes + alignment - 1) / page_bytes()) {
    region_ = take_region(pages_);
    std::byte* const last = area_end() - bytes;
    const auto below = reinterpret_cast<std::uintptr_t>(last) % alignment;
    data_ = flush == Flush::kStart ? area_begin() : last - below;
    poison(area_begin(), area_end());
    for (auto& slot : live_buffers()) {
      if (slot.name == nullptr) {
        slot = {name, data_, data_ + bytes_};
        slot_ = &slot;
        break;
      }
    }
  }
  ~GuardedBytes() {
    if (slot_ != nullptr) *slot_ = {};
    give_region(pages_, region_);
  }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;

  std::byte* bytes() const { return data_; }
  std::size_t byte_count() const { return bytes_; }

  /// False if anything was written around the data.
  bool intact() const {
    return is_poisoned(area_begin(), data_) && is_poisoned(data_ + bytes_, area_end());
  }

 private:
  /// Small regions are kept for the next buffer of their size: three system calls saved.
  static constexpr std::size_t kKeptPages = 8;
  static std::vector<std::byte*>& kept_regions(std::size_t pages) {
    static std::array<std::vector<std::byte*>, kKeptPages + 1> regions;
    return regions[pages];
  }
  static std::byte* take_region(std::size_t pages) {
    if (pages > kKeptPages || kept_regions(pages).empty()) return map_region(pages);
    std::byte* region = kept_regions(pages).back();
    kept_regions(pages).pop_back();
    return region;
  }
  static void give_region(std::size_t pages, std::byte* region) {
    if (pages <= kKeptPages) {
      kept_regions(pages).push_back(region);
    } else {
      munmap(region, (pages + 2) * page_bytes());
    }
  }
  static std::byte* map_region(std::size_t pages) {
    const std::size_t page = page_bytes();
    void* region = mmap(nullptr, (pages + 2) * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED ||
        mprotect(static_cast<std::byte*>(region) + page, pages * page, PROT_READ | PROT_WRITE)) {
      std::perror("guarded buffer");
      std::abort();
    }
    return static_cast<std::byte*>(region);
  }
  /// Two pages of the pattern, so that any phase and length up to a page can be copied from it.
  static const std::byte* pattern() {
    static const std::vector<std::uint32_t> words(2 * page_bytes() / 4, kPoison);
    return reinterpret_cast<const std::byte*>(words.data());
  }
  template <typename Action>
  static void for_each_piece(std::byte* begin, std::byte* end, Action action) {
    while (begin < end) {
      const std::size_t left = static_cast<std::size_t>(end - begin);
      const std::size_t piece = left < page_bytes() ? left : page_bytes();
      action(begin, pattern() + reinterpret_cast<std::uintptr_t>(begin) % 4, piece);
      begin += piece;
    }
  }
  static void poison(std::byte* begin, std::byte* end) {
    for_each_piece(begin, end, [](std::byte* to, const std::byte* from, std::size_t count) {
      std::memcpy(to, from, count);
    });
  }
  static bool is_poisoned(std::byte* begin, std::byte* end) {
    bool same = true;
    for_each_piece(begin, end, [&same](std::byte* at, const std::byte* want, std::size_t count) {
      same = same && std::memcmp(at, want, count) == 0;
    });
    return same;
  }
  std::byte* area_begin() const { return region_ + page_bytes(); }
  std::byte* area_end() const { return region_ + (pages_ + 1) * page_bytes(); }

  std::size_t bytes_, pages_;
  std::byte* region_ = nullptr;
  std::byte* data_ = nullptr;
  LiveBuffer* slot_ = nullptr;
};

/// `count` elements of T, poisoned, or a copy of given values.
template <typename T>
class Guarded {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  /// `name` must outlive the buffer; it is what a failure is reported with.
  Guarded(const char* name, std::size_t count, Flush flush, std::size_t alignment = alignof(T))
      : memory_(name, count * sizeof(T), flush, alignment), count_(count) {}
  Guarded(const char* name, const std::vector<T>& values, Flush flush,
          std::size_t alignment = alignof(T))
      : Guarded(name, values.size(), flush, alignment) {
    if (!values.empty()) std::memcpy(memory_.bytes(), values.data(), values.size() * sizeof(T));
  }

  T* data() const { return reinterpret_cast<T*>(memory_.bytes()); }
  std::size_t size() const { return count_; }
  T& operator[](std::size_t index) const { return data()[index]; }
  bool intact() const { return memory_.intact(); }
  /// As intact(), and the data still are these values, bit by bit.
  bool unchanged(const std::vector<T>& values) const {
    return intact() &&
           (values.empty() || std::memcmp(data(), values.data(), values.size() * sizeof(T)) == 0);
  }

 private:
  GuardedBytes memory_;
  std::size_t count_;
};

}  // namespace weebill::testing
