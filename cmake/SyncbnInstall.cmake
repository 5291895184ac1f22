# SPDX-License-Identifier: Apache-2.0

# cmake --install: libraries, headers, launcher, documents, the CMake package and the pkg-config files. Included by
# src/CMakeLists.txt, where the dependencies were found.
include(CMakePackageConfigHelpers)

set(syncbn_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/syncbn)
set(syncbn_components "")
foreach(component gloo mpi mpich)
  if(TARGET syncbn_${component})
    list(APPEND syncbn_components ${component})
  endif()
endforeach()

# One export file for the core and one a component, so that a program which asks for the core needs no MPI or Gloo.
install(TARGETS syncbn EXPORT syncbn-core)
install(EXPORT syncbn-core NAMESPACE syncbn:: DESTINATION ${syncbn_package_dir} FILE syncbn-core-targets.cmake)
set(libraries syncbn)
foreach(component ${syncbn_components})
  install(TARGETS syncbn_${component} EXPORT syncbn-${component})
  install(EXPORT syncbn-${component} NAMESPACE syncbn:: DESTINATION ${syncbn_package_dir}
          FILE syncbn-${component}-targets.cmake)
  list(APPEND libraries syncbn_${component})
endforeach()
# Before 1.0 a minor version may change the ABI. The installed libraries find each other where they lie.
set_target_properties(${libraries} PROPERTIES VERSION ${PROJECT_VERSION} INSTALL_RPATH "$ORIGIN"
                                              SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})

if(TARGET syncbn-run)
  install(TARGETS syncbn-run)
endif()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/syncbn DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING
        PATTERN *.h)
# The pages, and all that they link to: pictures, examples, the measured floors.
foreach(document README.md README.zh-CN.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE)
  install(FILES ${PROJECT_SOURCE_DIR}/${document} DESTINATION ${CMAKE_INSTALL_DOCDIR})
endforeach()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs DESTINATION ${CMAKE_INSTALL_DOCDIR}
        PATTERN site EXCLUDE PATTERN index.md EXCLUDE) # the site's own
install(DIRECTORY ${PROJECT_SOURCE_DIR}/examples DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(FILES ${PROJECT_SOURCE_DIR}/benchmarks/floors.md DESTINATION ${CMAKE_INSTALL_DOCDIR}/benchmarks)

if(BUILD_SHARED_LIBS)
  set(syncbn_is_static FALSE)
else()
  set(syncbn_is_static TRUE)
endif()
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/syncbn-config.cmake.in ${PROJECT_BINARY_DIR}/syncbn-config.cmake
                              INSTALL_DESTINATION ${syncbn_package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/syncbn-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/syncbn-config.cmake ${PROJECT_BINARY_DIR}/syncbn-config-version.cmake
        DESTINATION ${syncbn_package_dir})

# pkg-config. A static library's own dependencies have to reach the program's link line, a shared library's must not.
file(RELATIVE_PATH pc_prefix /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
function(syncbn_install_pc name description requires libs static_requires static_libs)
  if(syncbn_is_static)
    string(APPEND requires " ${static_requires}")
    string(APPEND libs " ${static_libs}")
  endif()
  configure_file(${PROJECT_SOURCE_DIR}/cmake/syncbn.pc.in ${PROJECT_BINARY_DIR}/${name}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${name}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endfunction()
set(openmp_flags "")
if(SYNCBN_PARALLEL STREQUAL "openmp")
  set(openmp_flags ${OpenMP_CXX_FLAGS})
endif()
syncbn_install_pc(syncbn "${PROJECT_DESCRIPTION}" "" "-lsyncbn" "fmt libhwy" "${openmp_flags} -pthread")
# What makes a program keep an engine that it never refers to; src/CMakeLists.txt says it to CMake's users.
function(syncbn_engine_flags name engine result)
  if(syncbn_is_static)
    set(${result} "-Wl,--undefined=syncbn_engine_${engine} -lsyncbn_${name}" PARENT_SCOPE)
  else()
    set(${result} "-Wl,--push-state,--no-as-needed,-lsyncbn_${name},--pop-state" PARENT_SCOPE)
  endif()
endfunction()
if(TARGET syncbn_gloo)
  syncbn_engine_flags(gloo gloo engine_flags)
  syncbn_install_pc(syncbn-gloo "Gloo engine of syncbn: processes over TCP" "syncbn = ${PROJECT_VERSION}"
                    "${engine_flags}" "" "-lgloo -pthread")
endif()
if(TARGET syncbn_mpi)
  string(REPLACE ";" " " mpi_libraries "${MPI_C_LIBRARIES}")
  syncbn_engine_flags(mpi mpi engine_flags)
  syncbn_install_pc(syncbn-mpi "MPI engine of syncbn" "syncbn = ${PROJECT_VERSION}" "${engine_flags}" ""
                    "${mpi_libraries}")
endif()
if(TARGET syncbn_mpich)
  syncbn_engine_flags(mpich mpi engine_flags)
  syncbn_install_pc(syncbn-mpich "MPI engine of syncbn, on MPICH" "syncbn = ${PROJECT_VERSION}" "${engine_flags}" mpich
                    "")
endif()
