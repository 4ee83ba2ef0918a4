// Depthwise blocks: [expand] -> depthwise -> [squeeze-and-excitation] -> [project] [+ x].
// The two ways to cut the work are described in plan.h.
#include <algorithm>
#include <cstring>

#include "core/separable_rows.h"
#include "core/status.h"
#include "core/workspace.h"

namespace weebill {
namespace {

// The expansion of rows [first, last) of the image into the ring, for its channels; or for those of
// `chunks` rings one behind the other, each of one block.
template <typename T>
void expand_rows(const SeparableBlock<T>& b, T* ring, const Rows<T>& rows, std::int64_t first,
                 std::int64_t last, std::int64_t first_channel, std::int64_t channels,
                 std::int64_t chunks = 1) {
  const SeparableProblem& p = b.problem;
  while (first < last) {
    const std::int64_t slot = first % rows.slots;
    const std::int64_t count = std::min(last - first, rows.slots - slot);
    PointwiseArgsOf<T> a{};
    a.x = b.pixel(first * p.w);
    a.x_stride = b.input.pixel_stride;
    a.offsets = b.input.offsets;
    a.w = b.record.expand_w.template as<T>() + first_channel * p.c_in;
    a.w_block_stride = p.c_in * kBlock;
    a.bias = b.record.expand_b.template as<T>() + first_channel;
    a.y = ring + slot * rows.row_stride + b.window.pad_left * rows.pixel_stride;
    a.y_stride = rows.pixel_stride;
    a.y_width = p.w;
    a.y_jump = rows.row_stride - p.w * rows.pixel_stride;
    a.m = count * p.w;
    a.k = p.c_in;
    a.n = chunks * b.ring_channels(channels);
    if (chunks > 1) a.y_block_jump = rows.slots * rows.row_stride - kBlock;
    a.m_block = plan_m_block(a.m, a.k, false, b.run.caches);
    a.ahead = b.run.ahead;
    a.activation = static_cast<std::int32_t>(b.h.expand_activation);
    (a.offsets == nullptr ? block::pointwise(b.run.kernels) : block::conv2d(b.run.kernels))(a);
    first += count;
  }
}

// The ring of an expansion of so many channels.
template <typename T>
Rows<T> ring_rows(const SeparableBlock<T>& b, const T* ring, std::int64_t channels) {
  const std::int64_t stride = b.ring_stride(channels);
  return {ring, b.plan.ring_columns * stride, stride, b.plan.ring_rows, true};
}

// Zeros in the padding columns of every ring row. They stay: nothing else is written there as long
// as the ring has so many channels.
template <typename T>
void clear_padding(const SeparableBlock<T>& b, T* ring, std::int64_t channels) {
  const Rows<T> rows = ring_rows(b, ring, channels);
  const std::int64_t left = b.window.pad_left * rows.pixel_stride;
  const std::int64_t right = left + b.problem.w * rows.pixel_stride;
  T* const end = ring + rows.slots * rows.row_stride;
  std::fill(ring, ring + left, T{});
  for (T* row = ring; row < end; row += rows.row_stride) {  // what is left of the next row, too
    std::fill(row + right, std::min(row + rows.row_stride + left, end), T{});
  }
}

// Channels [first, last) in chunks of the plan's size; the last takes a rest smaller than a block,
// so that it has no narrow tile of its own.
template <typename T, typename Chunk>
void for_chunks(const SeparableBlock<T>& b, std::int64_t first, std::int64_t last, Chunk&& chunk) {
  for (std::int64_t at = first; at < last;) {
    std::int64_t end = at + b.plan.chunk;
    if (end + kBlock > last) end = last;
    chunk(at, end - at);
    at = end;
  }
}

// How many of those chunks are of one block. A strip expands them at once: products want more.
template <typename T>
std::int64_t narrow_chunks(const SeparableBlock<T>& b, std::int64_t first, std::int64_t last) {
  std::int64_t chunks = 0;
  for_chunks(b, first, last, [&](std::int64_t, std::int64_t n) { chunks += n == kBlock ? 1 : 0; });
  return chunks > 1 ? chunks : 0;
}

// Of the input, under the window of output row oy; it may lie outside of the image.
std::int64_t last_row_under(const Window& w, std::int64_t oy) {
  return oy * w.stride_h - w.pad_top + std::int64_t{w.kernel_h - 1} * w.dilation_h;
}

// Reads the rows of x that output row oy needs and the one before did not, a word of each line in
// the order of memory. Kernels go through several rows and a tile of columns at once, which a
// processor does not foresee; this it does. Prefetch instructions are no such stream to it: on a
// Zen 3, where a core has 24 lines under way by itself and more by foresight, they were slower by
// 10 to 25 %, on a Zen 5 by up to 25 % too (a line per column of a tile, in the kernel). An Emerald
// Rapids does foresee them: there neither pays, and this costs 10 to 20 %.
template <typename T>
void read_rows(const SeparableBlock<T>& b, std::int64_t oy, std::int64_t channel,
               std::int64_t channels) {
  constexpr std::int64_t kLine = 64 / sizeof(T);
  const SeparableProblem& p = b.problem;
  const Window& w = b.window;
  const std::int64_t stride = b.input.pixel_stride;
  const std::int64_t end = last_row_under(w, oy) + 1;
  for (std::int64_t iy = std::max<std::int64_t>(end - w.stride_h, 0); iy < std::min(end, p.h);
       ++iy) {
    const T* pixel = b.input.x + iy * p.w * stride + channel;
    for (std::int64_t i = 0; i < p.w; ++i, pixel += stride) {
      for (std::int64_t c = 0; c < channels; c += kLine) {
        static_cast<void>(*reinterpret_cast<const volatile char*>(pixel + c));
      }
    }
  }
}

// Rows [first, last) of x into the ring, between its padding.
template <typename T>
void copy_rows(const SeparableBlock<T>& b, T* ring, const Rows<T>& rows, std::int64_t first,
               std::int64_t last, std::int64_t channel, std::int64_t channels) {
  const SeparableProblem& p = b.problem;
  const std::int64_t stride = b.input.pixel_stride;
  for (std::int64_t iy = first; iy < last; ++iy) {
    const T* from = b.pixel(iy * p.w) + channel;
    T* to = ring + iy % rows.slots * rows.row_stride + b.window.pad_left * rows.pixel_stride;
    if (channels == stride && channels == rows.pixel_stride) {
      std::memcpy(to, from, static_cast<std::size_t>(p.w * channels) * sizeof(T));
      continue;
    }
    for (std::int64_t i = 0; i < p.w; ++i) {
      std::memcpy(to + i * rows.pixel_stride, from + i * stride,
                  static_cast<std::size_t>(channels) * sizeof(T));
    }
  }
}

// Goes through output rows [first, last) in strips, and in each strip through channels
// [first_channel, last_channel) in chunks: expands the rows that are missing, and writes the
// depthwise output of the strip to `middle` (pixels of middle_stride(), beginning with output row
// `middle_row`, or with each strip if that is -1). After a strip, done(begin, end) is called. The
// rings of the chunks follow one another, their padding cleared.
template <typename T, typename Done>
void for_strips(const SeparableBlock<T>& b, T* ring, std::int64_t first, std::int64_t last,
                std::int64_t first_channel, std::int64_t last_channel, T* middle,
                std::int64_t middle_row, float* sums, Done&& done) {
  const SeparableProblem& p = b.problem;
  const Window& w = b.window;
  const std::int64_t sum_stride = round_up(p.c_mid, kBlock);
  const std::int64_t middle_stride = b.middle_stride();
  const bool uses_ring = p.has_expand || b.plan.padded;
  auto rows_of = [&](std::int64_t channel, std::int64_t channels) {
    const std::int64_t stride = b.input.pixel_stride;
    return uses_ring ? ring_rows(b, ring + b.ring_at(channel - first_channel), channels)
                     : Rows<T>{b.input.x + channel, p.w * stride, stride, p.h, false};
  };
  std::int64_t expanded = 0;  // rows of the expansion above this one are there, as far as needed
  for (std::int64_t begin = first; begin < last; begin += b.plan.strip_rows) {
    const std::int64_t end = std::min(begin + b.plan.strip_rows, last);
    const std::int64_t top = std::max<std::int64_t>(begin * w.stride_h - w.pad_top, 0);
    const std::int64_t bottom = last_row_under(w, end - 1) + 1;
    const std::int64_t from = std::max(top, expanded);
    const std::int64_t to = std::min(bottom, p.h);
    const std::int64_t wide = p.has_expand ? narrow_chunks(b, first_channel, last_channel) : 0;
    if (wide > 0 && from < to) {
      expand_rows(b, ring, rows_of(first_channel, kBlock), from, to, first_channel, kBlock, wide);
    }
    for_chunks(b, first_channel, last_channel, [&](std::int64_t channel, std::int64_t channels) {
      const Rows<T> rows = rows_of(channel, channels);
      if (p.has_expand && from < to && channel >= first_channel + wide * kBlock) {
        expand_rows(b, ring + b.ring_at(channel - first_channel), rows, from, to, channel,
                    channels);
      }
      DepthwiseRow<T> depthwise(b, rows, channel, b.middle_channels(channels));
      std::int64_t copied = top;
      const auto make_row = [&](std::int64_t oy) {
        const std::int64_t row = oy - (middle_row < 0 ? begin : middle_row);
        T* y = middle + row * p.ow * middle_stride + channel;
        if (b.plan.padded) {
          const std::int64_t need = std::min(last_row_under(w, oy) + 1, p.h);
          copied = std::max(copied, need - rows.slots);
          copy_rows(b, ring + b.ring_at(channel - first_channel), rows, copied, need, channel,
                    channels);
          copied = std::max(copied, need);
        } else if (b.plan.from_memory && !b.run.caches.foresees_tiles && oy + 1 < p.oh) {
          read_rows(b, oy + 1, channel, channels);
        }
        depthwise(oy, y, middle_stride,
                  sums == nullptr ? nullptr : sums + oy * sum_stride + channel);
      };
      for (std::int64_t column = 0; column < p.ow; column += b.plan.columns) {
        if (b.plan.columns < p.ow) depthwise.only({column, column + b.plan.columns});
        for (std::int64_t oy = begin; oy < end; ++oy) make_row(oy);
      }
    });
    expanded = std::max(expanded, to);
    done(begin, end);
  }
  if (b.run.streams) publish_streams();
}

template <typename T>
PointwiseArgsOf<T> projection(const SeparableBlock<T>& b, const T* from, std::int64_t first_row,
                              std::int64_t rows, T* y) {
  const SeparableProblem& p = b.problem;
  PointwiseArgsOf<T> a{};
  a.x = from;
  a.x_stride = b.middle_stride();
  a.w = b.record.project_w.template as<T>();
  a.w_block_stride = p.c_mid * kBlock;
  a.bias = b.record.project_b.template as<T>();
  const std::int64_t pixel = first_row * p.ow;
  a.y = y + pixel * b.y_stride;
  a.y_stride = b.y_stride;
  a.y_width = p.ow;
  a.m = rows * p.ow;
  a.k = p.c_mid;
  a.n = std::min(b.y_stride, round_up(p.c_out, kHalfBlock));
  if (b.h.residual != 0) {
    a.residual = b.pixel(pixel);
    a.residual_stride = b.input.pixel_stride;
    a.n = p.c_out;  // there is no more of x to add
  }
  a.m_block = plan_m_block(a.m, a.k, false, b.run.caches);
  a.ahead = b.run.ahead;
  a.activation = static_cast<std::int32_t>(b.h.activation);
  return a;
}

template <typename T>
void run_row_fusion(const SeparableBlock<T>& b, T* y) {
  const SeparableProblem& p = b.problem;
  std::int64_t ring = 0;
  for_chunks(b, 0, p.c_mid, [&](std::int64_t channel, std::int64_t channels) {
    ring = round_up(b.ring_at(channel) + b.ring_pixels() * b.ring_stride(channels), kBlock);
  });
  const std::int64_t strip = b.plan.strip_rows * p.ow * b.middle_stride();
  b.run.for_each(b.plan.bands, [&](std::int64_t band) {
    Workspace::Scope scope(Workspace::of_this_thread());
    T* my_ring = scope.take<T>(ring + strip);
    T* middle = my_ring + ring;
    if (p.has_expand) {
      for_chunks(b, 0, p.c_mid, [&](std::int64_t channel, std::int64_t channels) {
        clear_padding(b, my_ring + b.ring_at(channel), channels);
      });
    }
    for_strips(b, my_ring, band * p.oh / b.plan.bands, (band + 1) * p.oh / b.plan.bands, 0, p.c_mid,
               middle, -1, nullptr, [&](std::int64_t begin, std::int64_t end) {
                 block::pointwise(b.run.kernels)(projection(b, middle, begin, end - begin, y));
               });
  });
}

template <typename T>
void run_channel_fusion(const SeparableBlock<T>& b, T* y) {
  const SeparableProblem& p = b.problem;
  Workspace::Scope scope(Workspace::of_this_thread());
  const std::int64_t pixels = p.oh * p.ow;
  T* middle = p.has_project ? scope.take<T>(pixels * b.middle_stride()) : y;
  // Sums of one output row each, whoever computes it: their order does not depend on threads.
  const std::int64_t sum_stride = round_up(p.c_mid, kBlock);
  float* sums = nullptr;
  T* scale = nullptr;
  if (p.has_se) {
    sums = scope.take(p.oh * sum_stride);
    scale = scope.take<T>(sum_stride);
    std::memset(sums, 0, static_cast<std::size_t>(p.oh * sum_stride) * sizeof(float));
  }
  const std::int64_t blocks = (p.c_mid + kBlock - 1) / kBlock;
  const std::int64_t parts = b.plan.parts;
  // A chunk of the plan's size or, the last, with up to 15 channels more.
  const std::int64_t ring = b.ring_pixels() * std::max({b.ring_stride(b.plan.chunk),
                                                        b.ring_stride(b.plan.chunk + kHalfBlock),
                                                        b.ring_stride(b.plan.chunk + kBlock)});
  b.run.for_each(parts * b.plan.bands, [&](std::int64_t task) {
    Workspace::Scope task_scope(Workspace::of_this_thread());
    T* my_ring = task_scope.take<T>(ring);
    const std::int64_t part = task / b.plan.bands;
    const std::int64_t band = task % b.plan.bands;
    const std::int64_t end = std::min((part + 1) * blocks / parts * kBlock, p.c_mid);
    std::int64_t cleared = 0;  // channels of the ring whose padding was cleared
    for_chunks(b, part * blocks / parts * kBlock, end,
               [&](std::int64_t channel, std::int64_t channels) {
                 if (ring > 0 && channels != cleared) clear_padding(b, my_ring, channels);
                 cleared = channels;
                 for_strips(b, my_ring, band * p.oh / b.plan.bands,
                            (band + 1) * p.oh / b.plan.bands, channel, channel + channels, middle,
                            0, sums, [](std::int64_t, std::int64_t) {});
               });
  });
  if (p.has_se) squeeze_excite_scale(b.run, b.record, sums, p.oh, pixels, scale);
  if (p.has_project) {
    PointwiseArgsOf<T> a = projection(b, middle, 0, p.oh, y);
    a.scale = scale;
    run_product(b.run, a);
  } else if (p.has_se) {
    block::scale(b.run.kernels)({y, p.c_mid, scale, y, p.c_mid, pixels, p.c_mid});
  }
}

}  // namespace

template <typename T>
SeparableProblem separable_problem(const RunOf<T>& run, const Record& record, const Shape& x,
                                   const Shape& out) {
  const RecordHeader& h = *record.header;
  SeparableProblem p{};
  p.c_in = h.c_in;
  p.c_mid = h.c_mid;
  p.c_out = h.c_out;
  p.h = x.h;
  p.w = x.w;
  p.oh = out.h;
  p.ow = out.w;
  p.window = resolve(h.window, x.h, x.w);
  p.has_expand = h.has_expand != 0;
  p.has_se = h.has_se != 0;
  p.has_project = h.has_project != 0;
  p.leaves_zeros_out = block::leaves_zeros_out(run.kernels);
  p.streams = run.streams;
  return p;
}

bool goes_past_caches(const std::vector<Record>& records, const Shape& y) {
  if (records.size() != 1) return false;
  const RecordHeader& h = *records[0].header;
  return h.kind == RecordKind::kSeparable && h.has_project == 0 && h.has_se == 0 &&
         y.n * y.c * y.h * y.w >= kStreamedDepthwise;
}

template <typename T>
void run_separable(const RunOf<T>& run, const Record& record, const Pixels<T>& x,
                   const Shape& shape, T* y, std::int64_t y_stride) {
  const RecordHeader& h = *record.header;
  const SeparableProblem p =
      separable_problem(run, record, shape, record_output("run", record, shape));
  const SeparablePlan plan = plan_separable(p, run.caches, run.threads, fusion_policy());
  const RunOf<T> mine = {run.kernels, run.caches, plan.threads, run.streams,
                         plan.room_for_weights ? run.ahead : nullptr};
  const SeparableBlock<T> block = {mine, record, h, p.window,
                                   p,    plan,   x, y_stride > 0 ? y_stride : p.c_out};
  if (block.plan.row_fusion) {
    run_row_fusion(block, y);
  } else {
    run_channel_fusion(block, y);
  }
}

template SeparableProblem separable_problem(const Run&, const Record&, const Shape&, const Shape&);
template SeparableProblem separable_problem(const RunOf<Half>&, const Record&, const Shape&,
                                            const Shape&);
template void run_separable(const Run&, const Record&, const Pixels<float>&, const Shape&, float*,
                            std::int64_t);
template void run_separable(const RunOf<Half>&, const Record&, const Pixels<Half>&, const Shape&,
                            Half*, std::int64_t);

}  // namespace weebill
