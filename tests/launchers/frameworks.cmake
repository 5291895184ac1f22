# SPDX-License-Identifier: Apache-2.0

# Under the launchers of PyTorch and MindSpore, out of the virtual environment that scripts/venv.sh makes. Building
# needs nothing of it; where it is missing the tests fail, and ctest -LE python leaves them out.
if(NOT SYNCBN_GLOO OR NOT SYNCBN_LAUNCHER)
  return()
endif()
syncbn_add_test(frameworks_test SOURCES ../launch/job.cpp framework_job.cpp msrun_test.cpp
                syncbn_run_test.cpp torchrun_test.cpp
                LIBRARIES syncbn_gloo LABEL python)
target_include_directories(frameworks_test PRIVATE ../launch)
target_compile_definitions(
  frameworks_test
  PRIVATE SYNCBN_RUN="$<TARGET_FILE:syncbn-run>" SYNCBN_VENV="${SYNCBN_VENV}"
          SYNCBN_WORKER="$<TARGET_FILE:processes_worker>" SYNCBN_SCRIPTS="${CMAKE_CURRENT_SOURCE_DIR}")
add_dependencies(frameworks_test processes_worker syncbn-run)
