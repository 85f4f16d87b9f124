# What `cmake --install` lays down: the library, its headers, and a package that can be moved anywhere.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/wanpar)
set(WANPAR_LIBTORCH_COMPONENTS "")
if(TARGET LibTorch::CUDA)
  set(WANPAR_LIBTORCH_COMPONENTS "COMPONENTS CUDA")
endif()

install(TARGETS wanpar EXPORT wanparTargets FILE_SET HEADERS)
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
