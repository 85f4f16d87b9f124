# Installs wanpar, moves what was installed elsewhere, and builds and runs a stranger's project against it.
# usage: cmake -D BUILD=... -D PROJECT=... -D WORK=... -D COMPILER=... -D LIBTORCH=... -P consumer.cmake
function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE ${WORK}/installed ${WORK}/moved)
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/installed)
file(RENAME ${WORK}/installed ${WORK}/moved)

file(GLOB_RECURSE package ${WORK}/moved/*.cmake)
foreach(file ${package})
  file(STRINGS ${file} machine_paths REGEX "${BUILD}|${LIBTORCH}|${WORK}")
  file(STRINGS ${file} build_flags REGEX "-W[a-z]|-fsanitize")
  if(machine_paths OR build_flags)
    message(FATAL_ERROR "${file} carries what is no business of a consumer: ${machine_paths}${build_flags}")
  endif()
endforeach()

run(${CMAKE_COMMAND} -S ${PROJECT} -B ${WORK}/build -G ${GENERATOR} -DCMAKE_PREFIX_PATH=${WORK}/moved -DTorch_DIR=${LIBTORCH}/share/cmake/Torch
  -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER} -DCMAKE_BUILD_TYPE=Release)
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/consumer)
