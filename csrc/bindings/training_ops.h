// The layers in training as torch ops: see training_ops.cpp.
#pragma once

#include "bindings/stable_torch.h"

namespace weebill::bindings {

void define_training_ops(torch::stable::detail::StableLibrary& m);
void implement_training_ops(torch::stable::detail::StableLibrary& m);

}  // namespace weebill::bindings
