// `weebill._C.*_backward`: see backward.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace weebill::bindings {

void define_backward(pybind11::module_& m);

}  // namespace weebill::bindings
