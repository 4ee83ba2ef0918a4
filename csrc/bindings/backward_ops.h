// The gradients as torch ops: see backward_ops.cpp.
#pragma once

#include "bindings/stable_torch.h"

namespace weebill::bindings {

void define_backward_ops(torch::stable::detail::StableLibrary& m);
void implement_backward_ops(torch::stable::detail::StableLibrary& m);

}  // namespace weebill::bindings
