// The packed form of one block. Internal to the core.
//
//   [RecordHeader, padded to 64 bytes][section]...[section], each section on a multiple of 64 bytes
//
// A unit of several blocks holds their records in place of sections, one level deep.
//
// Where the sections lie follows from the header alone (layout()), so a header that was tampered
// with can't point outside the record: its size would not agree.
#pragma once

#include <cstdint>
#include <vector>

#include "core/weebill.h"

namespace weebill {

constexpr std::uint32_t kRecordVersion = 1;
constexpr char kRecordMagic[8] = "weebill";

/// Limits that packing keeps and parsing checks: channels, and anything of a window.
constexpr std::int64_t kMaxChannels = 1 << 20;
constexpr std::int64_t kMaxWindow = 1 << 12;

enum class RecordKind : std::uint32_t {
  kConv2d = 1,         ///< dense, any window, any groups
  kPointwise = 2,      ///< 1 x 1, stride 1; also the linear layer
  kSeparable = 3,      ///< depthwise with optional expansion, SE, projection, residual
  kSqueezeExcite = 4,  ///< on its own
  kGlobalPool = 5,
  kMaxPool = 6,
  kChannelShuffle = 7,
  kShuffleUnit = 8,    ///< ShuffleNetV2's unit. Parts: the branch, and the shortcut if there is one
  kShuffleUnitV1 = 9,  ///< Parts: 1 x 1, depthwise, 1 x 1, and the pooled shortcut if there is one
};

/// What weights are stored as and computed in.
enum class ElementType : std::int16_t { kFloat32 = 0, kFloat16 = 1 };

constexpr std::int64_t element_bytes(ElementType type) {
  return type == ElementType::kFloat16 ? sizeof(Half) : sizeof(float);
}

struct RecordHeader {
  char magic[8];
  std::uint32_t version;
  RecordKind kind;
  std::uint64_t bytes;
  std::int32_t c_in, c_mid, c_out, c_se;
  std::int32_t groups;
  std::int32_t has_expand, has_se, has_project, residual;
  Window window;
  Activation expand_activation, depthwise_activation, se_activation, se_gate, activation;
  std::int16_t parts;   ///< records inside this one, in place of sections
  ElementType element;  ///< of all sections; of all records inside
};

/// Where the sections, or the first record inside, begin.
constexpr std::uint64_t kHeaderBytes = (sizeof(RecordHeader) + 63) / 64 * 64;

inline bool is_unit(const RecordHeader& header) {
  return header.kind == RecordKind::kShuffleUnit || header.kind == RecordKind::kShuffleUnitV1;
}

/// Zeros but for what every record has.
RecordHeader new_header(RecordKind kind);

/// Offsets in bytes from the record's start; sections that a record lacks are empty.
struct RecordLayout {
  std::uint64_t expand_w, expand_b, depthwise_w, depthwise_b;
  std::uint64_t se_reduce_w, se_reduce_b, se_expand_w, se_expand_b;
  std::uint64_t project_w, project_b;  ///< also the weights of kConv2d and kPointwise
  std::uint64_t bytes;
};

/// The header's fields must be in range (see parse()).
RecordLayout layout(const RecordHeader& header);

/// Packed weights or biases of a record's element type.
struct Section {
  const void* data;
  template <typename T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
};

/// A validated record: the header and where its sections are, or the records inside.
struct Record {
  const RecordHeader* header;
  Section expand_w, expand_b, depthwise_w, depthwise_b;
  Section se_reduce_w, se_reduce_b, se_expand_w, se_expand_b;
  Section project_w, project_b;
  std::vector<Record> parts;
};

/// As pack(), but always a kConv2d or kPointwise record, where each group has one channel too.
void pack_grouped(const Conv2dSpec& spec, const Allocate& allocate);

/// Throws ValueError for anything that pack() can't have written.
std::vector<Record> parse(const std::string& op, Packed packed);

/// Output shape of one record; throws ValueError where x does not fit.
Shape record_output(const std::string& op, const Record& record, const Shape& x);

/// Checks the spec as pack() does; the shape that the convolution gives for x.
Shape conv2d_output(const Conv2dSpec& spec, const Shape& x);

/// Weights (channels, taps) in the layout of DepthwiseArgs::w.
void pack_taps(const float* w, std::int64_t channels, std::int64_t taps, float* out);

/// Weights (n, depth, taps) to [block][taps][depth][width]: the layout of PointwiseArgs::w. The
/// taps of an image row are contiguous, so a row outside the image is a contiguous part that is
/// left out.
void pack_product(const float* w, std::int64_t n, std::int64_t depth, std::int64_t taps,
                  float* out);

/// The window with its padding made explicit for an input of h x w (SAME needs the size).
Window resolve(const Window& window, std::int64_t h, std::int64_t w);

/// Elements of packed weights for a product of k inputs and n outputs, and between its blocks.
std::int64_t product_elements(std::int64_t k, std::int64_t n);

/// a / b for b > 0, rounded down and up.
constexpr std::int64_t floor_div(std::int64_t a, std::int64_t b) {
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}
constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return -floor_div(-a, b); }

constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace weebill
