# SPDX-License-Identifier: Apache-2.0

# Real processes on the real engines: a driver starts workers, by itself (gloo) or through an MPI's launcher.
if(NOT SYNCBN_GLOO)
  return()
endif()
syncbn_add_test(processes_test SOURCES processes_child.cpp processes_gloo_test.cpp LIBRARIES syncbn_gloo
                Threads::Threads)
# The worker exists once an MPI, for a program links one at most.
function(syncbn_add_processes_worker name define)
  add_executable(${name} processes_worker.cpp)
  target_link_libraries(${name} PRIVATE syncbn syncbn_gloo ${ARGN} syncbn_build_flags fmt::fmt Threads::Threads)
  target_compile_definitions(processes_test PRIVATE ${define}="$<TARGET_FILE:${name}>")
  add_dependencies(processes_test ${name})
endfunction()
if(SYNCBN_MPI)
  syncbn_add_processes_worker(processes_worker SYNCBN_WORKER syncbn_mpi)
  target_compile_definitions(processes_test PRIVATE SYNCBN_MPIEXEC="${MPIEXEC_EXECUTABLE}")
else()
  syncbn_add_processes_worker(processes_worker SYNCBN_WORKER)
endif()
if(SYNCBN_MPICH)
  find_program(SYNCBN_MPIEXEC_MPICH mpiexec.mpich REQUIRED)
  syncbn_add_processes_worker(processes_worker_mpich SYNCBN_WORKER_MPICH syncbn_mpich)
  target_compile_definitions(processes_test PRIVATE SYNCBN_MPIEXEC_MPICH="${SYNCBN_MPIEXEC_MPICH}")
endif()
if(SYNCBN_MPI OR SYNCBN_MPICH)
  target_sources(processes_test PRIVATE processes_mpi_test.cpp)
endif()
