// The core's exceptions. Messages have one form: "<op>: <argument> must <rule>, got <value>".
#pragma once

#include <stdexcept>
#include <string>
#include <type_traits>

#include "core/weebill.h"

namespace weebill {

/// A wrong shape or value. Python: ValueError.
struct WEEBILL_API ValueError : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};
/// A wrong dtype, device or layout. Python: TypeError.
struct WEEBILL_API TypeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// Right, but not supported here. Python: NotImplementedError.
struct WEEBILL_API NotSupported : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <typename... Parts>
std::string concat(const Parts&... parts) {
  std::string text;
  auto add = [&text](const auto& part) {
    using T = std::decay_t<decltype(part)>;
    if constexpr (std::is_arithmetic_v<T>) {
      text += std::to_string(part);
    } else if constexpr (std::is_same_v<T, Shape>) {
      text += concat("(", part.n, ", ", part.c, ", ", part.h, ", ", part.w, ")");
    } else {
      text += part;
    }
  };
  (add(parts), ...);
  return text;
}

/// Throws ValueError with the message made of the parts unless the condition holds.
template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) throw ValueError(concat(parts...));
}

}  // namespace weebill
