// Runs a package of torch's AOTInductor that holds weebill's ops, without Python:
//
//   run_package network.pt2 /path/to/weebill/_torch_ops.so N C H W < input.f32 > output.f32
//
// Input and output are raw float32 in C order. docs/export.md tells how the package is made;
// `python -c "from importlib.util import find_spec; print(find_spec('weebill._torch_ops').origin)"`
// prints the path of the ops.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/InferenceMode.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <vector>

int main(int argc, char** argv) try {
  if (argc != 7) {
    std::fprintf(stderr, "usage: %s PACKAGE.pt2 TORCH_OPS.so N C H W < input > output\n", argv[0]);
    return 2;
  }
  // The package calls the ops by name: they must be registered before it is loaded.
  if (dlopen(argv[2], RTLD_NOW) == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  torch::inductor::AOTIModelPackageLoader loader(argv[1]);

  std::vector<std::int64_t> shape;
  for (int i = 3; i < argc; ++i) shape.push_back(std::atoll(argv[i]));
  const at::Tensor x = at::empty(shape, at::kFloat);
  const auto count = static_cast<std::size_t>(x.numel());
  if (std::fread(x.mutable_data_ptr(), sizeof(float), count, stdin) != count) {
    std::fprintf(stderr, "the input must hold %zu float32 numbers\n", count);
    return 1;
  }

  const c10::InferenceMode guard;
  const at::Tensor y = loader.run({x})[0].contiguous();
  std::fwrite(y.const_data_ptr(), sizeof(float), static_cast<std::size_t>(y.numel()), stdout);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
