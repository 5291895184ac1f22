# SPDX-License-Identifier: Apache-2.0

# Addresses of real networks, and a real cluster on this machine. Its daemons start once for all tests of the program,
# which ctest therefore runs as one test.
if(NOT SYNCBN_GLOO OR SYNCBN_SANITIZE)
  return()
endif()
syncbn_add_test(addresses_test SOURCES addresses_test.cpp ../engines/processes_child.cpp)
target_compile_definitions(addresses_test PRIVATE SYNCBN_WORKER="$<TARGET_FILE:processes_worker>"
                                                  SYNCBN_FORWARD="${CMAKE_CURRENT_SOURCE_DIR}/forward.py")
add_dependencies(addresses_test processes_worker)

add_executable(slurm_test slurm_cluster.cpp slurm_test.cpp ../engines/processes_child.cpp)
target_link_libraries(slurm_test PRIVATE syncbn_build_flags fmt::fmt GTest::gtest GTest::gtest_main Threads::Threads)
target_compile_definitions(
  slurm_test PRIVATE SYNCBN_WORKER="$<TARGET_FILE:processes_worker>" SYNCBN_VENV="${SYNCBN_VENV}"
                     SYNCBN_JOB_FILE="${PROJECT_SOURCE_DIR}/examples/slurm/train.sbatch"
                     SYNCBN_TORCH_EXAMPLE="${PROJECT_SOURCE_DIR}/examples/torch/segmentation.py")
add_dependencies(slurm_test processes_worker)
if(SYNCBN_MPI)
  target_compile_definitions(slurm_test PRIVATE SYNCBN_MPI SYNCBN_MPIEXEC="${MPIEXEC_EXECUTABLE}")
endif()
if(SYNCBN_MPICH)
  target_compile_definitions(slurm_test PRIVATE SYNCBN_WORKER_MPICH="$<TARGET_FILE:processes_worker_mpich>"
                                                SYNCBN_MPIEXEC_MPICH="${SYNCBN_MPIEXEC_MPICH}")
  add_dependencies(slurm_test processes_worker_mpich)
endif()
if(SYNCBN_LAUNCHER)
  target_compile_definitions(slurm_test PRIVATE SYNCBN_RUN="$<TARGET_FILE:syncbn-run>")
  add_dependencies(slurm_test syncbn-run)
endif()
add_test(NAME launchers/slurm_test COMMAND slurm_test --gtest_filter=-*PyTorch*)
set_tests_properties(launchers/slurm_test PROPERTIES TIMEOUT 300)
if(SYNCBN_PYTHON)
  add_test(NAME launchers/slurm_pytorch_test COMMAND slurm_test --gtest_filter=*PyTorch*)
  set_tests_properties(
    launchers/slurm_pytorch_test
    PROPERTIES LABELS python TIMEOUT 300 ENVIRONMENT "PYTHONPATH=${PROJECT_BINARY_DIR}/python;PYTHONDONTWRITEBYTECODE=1")
endif()
