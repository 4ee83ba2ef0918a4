// Other tables of AVX-512, after table.inl: the same kernels but for products.
//   avx512_256      for processors that take two passes for 512 bits (Zen 4): columns of a product
//                   that are one block of 16 channels wide, or one and a half, or a half one, by
//                   AVX2's kernels. There a tile of 512 bits has broadcasts of its own, which take
//                   turns with the FMAs.
//   avx512_twoport  for processors whose every operation on 512 bits takes one of two ports, the
//                   FMAs' (Intel): columns of one block and a half by interleaved_tiles.inl and
//                   interleaved_windows.inl, first convolutions with one block of outputs as on
//                   Zen 4 (window_tiles.inl).
#undef WEEBILL_ISA
#define WEEBILL_ISA avx512_256
#define WEEBILL_UNITS Units::kHalves
#include "isa/products.inl"

#undef WEEBILL_ISA
#undef WEEBILL_UNITS
#define WEEBILL_ISA avx512_twoport
#define WEEBILL_UNITS Units::kShared
#include "isa/products.inl"
