# SPDX-License-Identifier: Apache-2.0

# Programs lie in one place, whatever folder they come from.
if(PROJECT_IS_TOP_LEVEL)
  set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
endif()

# What every target of this project is compiled with. Nothing here leaks to a consumer.
add_library(syncbn_build_flags INTERFACE)
target_compile_features(syncbn_build_flags INTERFACE cxx_std_20)
# Contraction changes bits; fast-math deletes the error-free transformations (exact/ refuses it with #error).
target_compile_options(
  syncbn_build_flags
  INTERFACE -ffp-contract=off
            -Wall
            -Wextra
            -Wshadow
            -Wconversion
            -Wdouble-promotion
            -Wfloat-conversion
            # A shared library exports what SYNCBN_API and SYNCBN_ENGINE_API mark, and nothing of {fmt} or nlohmann_json.
            -fvisibility=hidden
            -fvisibility-inlines-hidden
            # GCC 12 sees an overflow in {fmt}'s format string parser that is not there.
            $<$<CXX_COMPILER_ID:GNU>:-Wno-stringop-overflow>
            $<$<BOOL:${SYNCBN_WERROR}>:-Werror>)
target_include_directories(syncbn_build_flags INTERFACE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
if(SYNCBN_SANITIZE)
  # GCC sees uninitialized values in its own instrumentation of std::regex.
  target_compile_options(
    syncbn_build_flags INTERFACE -fsanitize=${SYNCBN_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer
                                 $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_link_options(syncbn_build_flags INTERFACE -fsanitize=${SYNCBN_SANITIZE})
endif()
if(SYNCBN_FUZZ)
  target_compile_options(syncbn_build_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
