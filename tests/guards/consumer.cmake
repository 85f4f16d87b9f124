# Installs wanpar, moves what was installed elsewhere, and builds and runs a stranger's project against it; and the same
# program without CMake, by what pkg-config says of the Debian package.
# usage: cmake -D BUILD=... -D PROJECT=... -D WORK=... -D COMPILER=... -D LIBTORCH=... -P consumer.cmake
function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE ${WORK}/installed ${WORK}/moved ${WORK}/deb)
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/installed)
file(RENAME ${WORK}/installed ${WORK}/moved)

file(GLOB_RECURSE package ${WORK}/moved/*.cmake ${WORK}/moved/*.pc)
foreach(file ${package})
  file(STRINGS ${file} machine_paths REGEX "${BUILD}|${LIBTORCH}|${WORK}")
  file(STRINGS ${file} build_flags REGEX "-W[a-z]|-fsanitize")
  if(file MATCHES "\\.pc$")  # which has the linker's own
    list(FILTER build_flags EXCLUDE REGEX "^Libs: ")
  endif()
  if(machine_paths OR build_flags)
    message(FATAL_ERROR "${file} carries what is no business of a consumer: ${machine_paths}${build_flags}")
  endif()
endforeach()

run(${CMAKE_COMMAND} -S ${PROJECT} -B ${WORK}/build -G ${GENERATOR} -DCMAKE_PREFIX_PATH=${WORK}/moved -DTorch_DIR=${LIBTORCH}/share/cmake/Torch
  -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER} -DCMAKE_BUILD_TYPE=Release)
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/consumer)
run(${WORK}/build/conformance)

find_program(PKG_CONFIG pkg-config REQUIRED)
find_program(CPACK cpack HINTS ${CMAKE_ROOT}/../../bin REQUIRED)
find_program(DPKG_DEB dpkg-deb)
set(prefix ${WORK}/moved)
if(DPKG_DEB)
  run(${CPACK} --config ${BUILD}/CPackConfig.cmake -G DEB -B ${WORK}/deb)
  file(GLOB deb ${WORK}/deb/*.deb)
  run(${DPKG_DEB} -x ${deb} ${WORK}/deb/root)
  set(prefix ${WORK}/deb/root/usr)
endif()
file(GLOB_RECURSE pc ${prefix}/*/wanpar.pc)
get_filename_component(pc_folder ${pc} DIRECTORY)
execute_process(COMMAND ${CMAKE_COMMAND} -E env PKG_CONFIG_PATH=${pc_folder}
  ${PKG_CONFIG} --define-variable=libtorch=${LIBTORCH} --cflags --libs wanpar
  OUTPUT_VARIABLE flags OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
separate_arguments(flags UNIX_COMMAND "${flags}")
run(${COMPILER} -std=c++20 ${PROJECT}/main.cpp -o ${WORK}/by_pkg_config ${flags})
run(${WORK}/by_pkg_config)
