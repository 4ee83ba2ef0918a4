# One function for everything that depends on an instruction set.
#
#   weebill_add_isa(<name> [SOURCE <stem>] [OPTIMISE <flag>] [FLAGS <flag>...])
#
# compiles csrc/isa/<stem>.cpp (by default <name>.cpp) with FLAGS and, but for Debug, OPTIMISE (-O3)
# into an object library weebill_isa_<name>, and adds it to the list WEEBILL_ISA_OBJECTS and the macro
# list WEEBILL_HAVE_<NAME> if the compiler accepts FLAGS.
# These are the only sources of the project that get -m flags: all other code is compiled for the
# architecture's baseline, so that the library loads on every CPU of its architecture.
#
# Used by csrc/isa/CMakeLists.txt, a folder of its own because its objects are alike in all builds
# that optimise: kernels have no assertions, so a compiler cache need not compile them twice.
include(CheckCXXCompilerFlag)
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "${CMAKE_CXX_FLAGS_RELEASE}")

# Under sanitizers every access is a call: inlined checks made the kernels ten times as long, and
# took minutes to compile. AddressSanitizer finds what those left out would (uses of a null pointer,
# of one that left its object, and of bytes beyond an object), and the processor what an instruction
# that wants its operand aligned does to one that isn't.
set(WEEBILL_ISA_SANITIZERS "")
if(CMAKE_CXX_FLAGS MATCHES "-fsanitize=address" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(WEEBILL_ISA_SANITIZERS -Og -fno-sanitize=null,object-size,pointer-overflow,alignment
                             "SHELL:--param asan-instrumentation-with-call-threshold=0")
endif()

# Where nothing is optimised, clang need not inline the intrinsics either: whether it may is checked
# before.
set(WEEBILL_ISA_UNOPTIMISED "")
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND CMAKE_BUILD_TYPE STREQUAL "Debug")
  set(WEEBILL_ISA_UNOPTIMISED "SHELL:-Xclang -disable-llvm-passes")
endif()

set(WEEBILL_ISA_OBJECTS "")
set(WEEBILL_ISA_DEFINITIONS "")

function(weebill_add_isa name)
  cmake_parse_arguments(ARG "" "SOURCE;OPTIMISE" "FLAGS" ${ARGN})
  if(NOT ARG_SOURCE)
    set(ARG_SOURCE ${name})
  endif()
  if(NOT ARG_OPTIMISE)
    set(ARG_OPTIMISE -O3)
  endif()
  string(TOUPPER ${name} upper)
  string(REPLACE ";" " " flags "${ARG_FLAGS}")
  set(accepted TRUE)
  if(ARG_FLAGS)
    set(CMAKE_REQUIRED_QUIET TRUE)
    check_cxx_compiler_flag("${flags}" WEEBILL_COMPILER_HAS_${upper})
    set(accepted ${WEEBILL_COMPILER_HAS_${upper}})
  endif()
  if(NOT accepted)
    message(STATUS "weebill: no ${name} kernels, the compiler refuses ${flags}")
    return()
  endif()
  set(target weebill_isa_${name})
  add_library(${target} OBJECT ${PROJECT_SOURCE_DIR}/csrc/isa/${ARG_SOURCE}.cpp)
  target_link_libraries(${target} PRIVATE weebill_options)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/csrc)
  # No exceptions, RTTI or thread-safe statics: nothing of the C++ library may be instantiated here.
  # No automatic vectorisation: the scalar tier stays scalar, and a loop is a vector loop because
  # its source says so. Of debug symbols line numbers: hardly a variable of a kernel outlives the
  # optimiser, and describing them all takes half of the compile time.
  target_compile_options(
    ${target} PRIVATE "$<$<NOT:$<CONFIG:Debug>>:${ARG_OPTIMISE};-g1>" ${ARG_FLAGS}
                      ${WEEBILL_ISA_SANITIZERS} ${WEEBILL_ISA_UNOPTIMISED} -fno-exceptions
                      -fno-rtti -fno-threadsafe-statics -fno-tree-vectorize
                      -ffp-contract=off -fno-math-errno)
  set(WEEBILL_ISA_OBJECTS ${WEEBILL_ISA_OBJECTS} $<TARGET_OBJECTS:${target}> PARENT_SCOPE)
  set(WEEBILL_ISA_DEFINITIONS ${WEEBILL_ISA_DEFINITIONS} WEEBILL_HAVE_${upper} PARENT_SCOPE)
endfunction()

function(weebill_add_all_isas)
  weebill_add_isa(scalar)
  # Nobody runs it for speed, and inlined roundings took longer to compile than all other kernels.
  weebill_add_isa(scalar_fp16 OPTIMISE -Os)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
    weebill_add_isa(avx2 FLAGS -mavx2 -mfma -mf16c -mbmi -mbmi2)
    if(WEEBILL_EMULATE_AVX512)
      # SIMDe's headers are not ours to keep free of warnings, and inline better when asked less:
      # -O1 took half as long again.
      weebill_add_isa(avx512 SOURCE avx512_emulated OPTIMISE -Og FLAGS -mavx2 -mfma -w -g0)
    elseif(WEEBILL_AVX512)
      set(quiet "")
      if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        # gcc 12 warns of its own AVX-512 header (GCC bug 105593).
        set(quiet -Wno-maybe-uninitialized -Wno-uninitialized)
      endif()
      weebill_add_isa(avx512 FLAGS -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512cd -mavx2
                      -mfma -mf16c -mbmi -mbmi2 -mprefer-vector-width=512 ${quiet})
    endif()
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
    weebill_add_isa(neon)
    weebill_add_isa(neon_fp16 FLAGS -march=armv8.2-a+fp16)
  endif()
  set(WEEBILL_ISA_OBJECTS ${WEEBILL_ISA_OBJECTS} PARENT_SCOPE)
  set(WEEBILL_ISA_DEFINITIONS ${WEEBILL_ISA_DEFINITIONS} PARENT_SCOPE)
endfunction()
