# What `cmake --install` lays down: the library, its headers, and a package that can be moved anywhere.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/wanpar)
set(WANPAR_LIBTORCH_COMPONENTS "")
if(TARGET LibTorch::CUDA)
  set(WANPAR_LIBTORCH_COMPONENTS "COMPONENTS CUDA")
endif()

install(TARGETS wanpar EXPORT wanparTargets FILE_SET HEADERS)
if(TARGET wanpar_conformance)
  install(TARGETS wanpar_conformance EXPORT wanparTargets FILE_SET HEADERS)
endif()
install(EXPORT wanparTargets NAMESPACE wanpar:: DESTINATION ${package_dir})

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/wanparConfig.cmake.in
  ${PROJECT_BINARY_DIR}/package/wanparConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/package/wanparConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES
  ${PROJECT_BINARY_DIR}/package/wanparConfig.cmake
  ${PROJECT_BINARY_DIR}/package/wanparConfigVersion.cmake
  ${CMAKE_CURRENT_LIST_DIR}/FindLibTorch.cmake
  DESTINATION ${package_dir})

# The same for builds without CMake.
file(RELATIVE_PATH WANPAR_PC_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" WANPAR_PC_PREFIX "${WANPAR_PC_PREFIX}")
set(WANPAR_PC_LIBTORCH "-ltorch_cpu -lc10")
if(TARGET LibTorch::CUDA)
  string(PREPEND WANPAR_PC_LIBTORCH "-Wl,--no-as-needed -ltorch_cuda -lc10_cuda ")
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/wanpar.pc.in ${PROJECT_BINARY_DIR}/package/wanpar.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/package/wanpar.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
