// Channel shuffle and the units of ShuffleNet, as ops.
#pragma once

#include "bindings/stable_torch.h"

namespace weebill::bindings {

void define_shuffle_ops(torch::stable::detail::StableLibrary& library);
void implement_shuffle_ops(torch::stable::detail::StableLibrary& library);

}  // namespace weebill::bindings
