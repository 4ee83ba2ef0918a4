// From float32 to float16 and back: where a network begins and ends.

void narrow_f16(const NarrowArgs& a) {
  int64_t i = 0;
  for (; i + kLanes <= a.count; i += kLanes) store(a.y + i, load_narrowed(a.x + i));
  for (; i < a.count; ++i) a.y[i] = to_element(a.x[i]);
}

void widen_f16(const WidenArgs& a) {
  int64_t i = 0;
  for (; i + kLanes <= a.count; i += kLanes) store_widened(a.y + i, load(a.x + i));
  if (i == a.count) return;
  float lanes[kLanes];
  store_widened(lanes, load_n(a.x + i, a.count - i));
  for (int64_t lane = 0; i < a.count; ++i, ++lane) a.y[i] = lanes[lane];
}
