// Results that go past the caches.
#pragma once

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace weebill {

/// Makes what kernels have stored past the caches visible to other threads: at the end of every
/// task that had some do so. It waits for memory; once a row it took a third of the time of a
/// depthwise convolution of 16 x 112 x 112.
inline void publish_streams() {
#if defined(__SSE__)
  _mm_sfence();
#endif
}

}  // namespace weebill
