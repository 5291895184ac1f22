# SPDX-License-Identifier: Apache-2.0

# Kernels for GPUs: the library libsyncbn_cuda.so, and tests that run the same kernels on the host. Neither the rest of
# the project nor these tests need CUDA.
set(SYNCBN_CUDA OFF CACHE STRING "libsyncbn_cuda.so: ON, OFF, or AUTO (built if nvcc is found)")
set(SYNCBN_CUDA_ARCHITECTURES "80;90" CACHE STRING "Compute capabilities that libsyncbn_cuda.so is built for")
if(SYNCBN_CUDA)
  find_program(SYNCBN_NVCC nvcc HINTS ENV CUDA_HOME PATH_SUFFIXES bin PATHS /usr/local/cuda)
  syncbn_require(SYNCBN_CUDA "nvcc 12.4 or later" nvidia-cuda-toolkit SYNCBN_NVCC)
endif()
if(SYNCBN_CUDA)
  set(flags -std=c++20 -O3 --expt-relaxed-constexpr
            # Contraction changes bits.
            -fmad=false
            # One runtime for the process is not assumed: nothing else of syncbn links CUDA.
            -cudart static -shared -Xcompiler -fPIC,-fvisibility=hidden,-ffp-contract=off)
  foreach(architecture IN LISTS SYNCBN_CUDA_ARCHITECTURES)
    list(APPEND flags -gencode arch=compute_${architecture},code=sm_${architecture})
  endforeach()
  if(SYNCBN_WERROR)
    list(APPEND flags -Werror all-warnings)
  endif()
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/device/*.h ${PROJECT_SOURCE_DIR}/src/exact/*)
  set(syncbn_cuda_library ${PROJECT_BINARY_DIR}/src/libsyncbn_cuda.so)
  add_custom_command(
    OUTPUT ${syncbn_cuda_library}
    COMMAND ${SYNCBN_NVCC} ${flags} -ccbin ${CMAKE_CXX_COMPILER} -I${PROJECT_SOURCE_DIR}/src -I${PROJECT_SOURCE_DIR}/include
            ${PROJECT_SOURCE_DIR}/src/device/cuda/library.cu -o ${syncbn_cuda_library}
    DEPENDS ${PROJECT_SOURCE_DIR}/src/device/cuda/library.cu ${sources} ${PROJECT_SOURCE_DIR}/src/base/format16.h
            ${PROJECT_SOURCE_DIR}/src/kernels/convert.h
    VERBATIM)
  add_custom_target(syncbn_cuda ALL DEPENDS ${syncbn_cuda_library})
endif()
target_sources(syncbn PRIVATE ${PROJECT_SOURCE_DIR}/src/device/device_kernels.cpp ${PROJECT_SOURCE_DIR}/src/device/find.cpp)
if(SYNCBN_TESTS)
  add_subdirectory(tests/device)
endif()
