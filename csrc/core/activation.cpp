#include "core/record.h"
#include "core/status.h"

namespace weebill {

const std::vector<std::string>& activation_names() {
  static const std::vector<std::string> names = {
      "none", "relu", "relu6", "hardswish", "hardsigmoid", "hardsigmoid_paddle", "silu", "sigmoid"};
  return names;
}

Activation parse_activation(const std::string& op, const std::string& argument,
                            const std::string& name) {
  const std::vector<std::string>& names = activation_names();
  std::string all;
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return static_cast<Activation>(i);
    all += (i == 0 ? "" : ", ") + names[i];
  }
  throw ValueError(concat(op, ": ", argument, " must be one of ", all, ", got '", name, "'"));
}

}  // namespace weebill
