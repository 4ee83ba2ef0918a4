// `weebill._C.Guard`: see guard.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace weebill::bindings {

void define_guard(pybind11::module_& m);

}  // namespace weebill::bindings
