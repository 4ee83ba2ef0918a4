// Scratch memory that is kept from call to call. Internal to the core.
//
// One per thread. A call takes what it needs and gives all of it back at the end of its scope;
// after the first call of a network nothing is allocated any more.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace weebill {

class Workspace {
 public:
  static Workspace& of_this_thread();

  /// Gives back, when it goes, everything taken since it was made.
  class Scope {
   public:
    explicit Scope(Workspace& workspace);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    /// `count` elements on a multiple of 64 bytes, not initialised. Throws std::bad_alloc.
    template <typename T = float>
    T* take(std::int64_t count) {
      return static_cast<T*>(workspace_.take_bytes(static_cast<std::size_t>(count) * sizeof(T)));
    }
    /// As many zeros.
    const float* zeros(std::int64_t count) { return std::fill_n(take(count), count, 0.0f) - count; }

   private:
    Workspace& workspace_;
    std::size_t chunk_, used_;
  };

  ~Workspace();

 private:
  struct Chunk {
    std::byte* data;
    std::size_t size;
  };
  void* take_bytes(std::size_t bytes);
  void merge();

  std::vector<Chunk> chunks_;
  std::size_t chunk_ = 0;  // the one that is being filled
  std::size_t used_ = 0;   // bytes of it
};

}  // namespace weebill
