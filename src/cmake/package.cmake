# What `cpack` makes of what is installed: a Debian package for building against wanpar.
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_CONTACT "the maintainers of wanpar <root@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(needs "its CPU half is enough, and there is no NCCL transport")
if(TARGET LibTorch::CUDA)
  set(needs "with its CUDA half, a CUDA toolkit and NCCL's headers")
endif()
set(CPACK_PACKAGE_DESCRIPTION "wanpar runs and trains LibTorch modules on several devices.
LibTorch is no Debian package, and none is depended on. CMake's find_package(wanpar) takes
the torch wheel in .venv of a project or in the activated Python environment, or what
CMAKE_PREFIX_PATH or Torch_DIR name; pkg-config is told by --define-variable=libtorch=.
It must be LibTorch ${WANPAR_LIBTORCH_VERSION}, ${needs}. See README.Debian.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_DEBIAN_PACKAGE_NAME libwanpar-dev)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)
# Its headers are C++20, and its archive wants the C++ library of the compiler that made it.
string(REGEX MATCH "^[0-9]+" compiler "${CMAKE_CXX_COMPILER_VERSION}")
set(CPACK_DEBIAN_PACKAGE_DEPENDS "libstdc++-${compiler}-dev")
if(NOT CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  set(CPACK_DEBIAN_PACKAGE_DEPENDS "g++")
endif()
if(BUILD_SHARED_LIBS)
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS OFF)  # it would ask for LibTorch's package
  string(APPEND CPACK_DEBIAN_PACKAGE_DEPENDS ", libstdc++6, libc6")
endif()
# To find LibTorch; and of wanpar/extend/files/json.hpp.
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "g++ (>= 4:12), cmake (>= 3.24) | pkg-config, python3-venv, nlohmann-json3-dev")

file(STRINGS ${PROJECT_SOURCE_DIR}/scripts/requirements.txt WANPAR_TORCH_WHEELS REGEX "==")
list(JOIN WANPAR_TORCH_WHEELS " " WANPAR_TORCH_WHEELS)
configure_file(${CMAKE_CURRENT_LIST_DIR}/README.Debian.in ${PROJECT_BINARY_DIR}/package/README.Debian @ONLY)
set(documents ${CMAKE_INSTALL_DATAROOTDIR}/doc/libwanpar-dev)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${documents} RENAME copyright)
install(FILES ${PROJECT_BINARY_DIR}/package/README.Debian DESTINATION ${documents})
include(CPack)
