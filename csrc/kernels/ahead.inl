// Where the fetching of weights goes on: a product's tiles ask for the next block's (walk.next_w),
// and, given PointwiseArgs::ahead, further on, past the product's own to those of calls to come.
//
// On Emerald Rapids, whose core reads its last cache at 29 GB/s and its second one at 139, four
// lines per four inputs of a 14 x 32 tile cost nothing, six neither. The two products of
// 960-channel squeeze-and-excitation took 32 us each where they waited for the last cache;
// MobileNetV3-Large takes 3 % less, Small 4 %. A Zen 4 and a Zen 5 read the last cache two to four
// times as fast, and what their linear layers gained the products before paid for: not used there.

// Where the tiles of a column with weights at `here` begin, which would at next_w.
inline const Element* fetch_from(const PointwiseArgs& a, const Element* here,
                                 const Element* next_w) {
  if (a.ahead == nullptr) return next_w;
  const Element* const reach = here + a.ahead->reach;
  const Element* const from = a.ahead->next < reach ? a.ahead->next : reach;
  return from > next_w ? from : next_w;
}

// They are at next_w now. Pixels go through the weights block by block: those of all of them count.
inline void fetched(const PointwiseArgs& a, const Element* here, const Element* next_w) {
  if (a.ahead == nullptr) return;
  const Element* const reach = here + a.ahead->reach;
  const Element* const last = a.w + (a.n + kBlock - 1) / kBlock * a.w_block_stride;
  const Element* const to = next_w < reach ? next_w : reach;
  if (to > a.ahead->next || a.ahead->next > last + a.ahead->reach) a.ahead->next = to;
}
