# Finds LibTorch and makes the target LibTorch::LibTorch (and LibTorch::CUDA where CUDA can be linked).
#
# Two sources, in this order:
#   1. a LibTorch that the user names: CMAKE_PREFIX_PATH or Torch_DIR leads to its own TorchConfig.cmake;
#   2. the PyPI wheel in LibTorch_VENV (default: <project>/.venv). The wheel's own config demands a CUDA
#      toolkit, which most machines lack, so the targets are made here from its libraries.
include(FindPackageHandleStandardArgs)

set(LibTorch_VENV "${CMAKE_CURRENT_SOURCE_DIR}/.venv" CACHE PATH "Python environment that holds the torch wheel")

if(NOT TARGET LibTorch::LibTorch)
  if(CMAKE_PREFIX_PATH OR Torch_DIR)
    find_package(Torch CONFIG QUIET)
  endif()
  if(Torch_FOUND)
    set(LibTorch_ORIGIN "TorchConfig.cmake in ${Torch_DIR}")
    add_library(LibTorch::LibTorch INTERFACE IMPORTED)
    target_link_libraries(LibTorch::LibTorch INTERFACE ${TORCH_LIBRARIES})
    set(LibTorch_INCLUDE_DIR "${TORCH_INCLUDE_DIRS}")
    if(TARGET torch_cuda)
      add_library(LibTorch::CUDA INTERFACE IMPORTED)
      target_link_libraries(LibTorch::CUDA INTERFACE ${TORCH_LIBRARIES})
    endif()
  else()
    file(GLOB _libtorch_roots "${LibTorch_VENV}/lib/python3*/site-packages/torch")
    find_path(LibTorch_INCLUDE_DIR ATen/ATen.h HINTS ${_libtorch_roots} PATH_SUFFIXES include NO_DEFAULT_PATH)
    find_library(LibTorch_CPU_LIBRARY torch_cpu HINTS ${_libtorch_roots} PATH_SUFFIXES lib NO_DEFAULT_PATH)
    find_library(LibTorch_C10_LIBRARY c10 HINTS ${_libtorch_roots} PATH_SUFFIXES lib NO_DEFAULT_PATH)
    if(LibTorch_CPU_LIBRARY AND LibTorch_C10_LIBRARY AND LibTorch_INCLUDE_DIR)
      set(LibTorch_ORIGIN "the wheel in ${LibTorch_VENV}")
      find_package(Threads REQUIRED)
      add_library(LibTorch::LibTorch INTERFACE IMPORTED)
      target_include_directories(LibTorch::LibTorch SYSTEM INTERFACE
        "${LibTorch_INCLUDE_DIR}" "${LibTorch_INCLUDE_DIR}/torch/csrc/api/include")
      target_link_libraries(LibTorch::LibTorch INTERFACE "${LibTorch_CPU_LIBRARY}" "${LibTorch_C10_LIBRARY}" Threads::Threads)
      # The wheel finds its CUDA runtime by its own RPATH at load time; the linker need not.
      target_link_options(LibTorch::LibTorch INTERFACE "LINKER:--allow-shlib-undefined")

      get_filename_component(_libtorch_site "${LibTorch_INCLUDE_DIR}/../.." ABSOLUTE)
      find_library(LibTorch_CUDA_LIBRARY torch_cuda HINTS ${_libtorch_roots} PATH_SUFFIXES lib NO_DEFAULT_PATH)
      find_library(LibTorch_C10_CUDA_LIBRARY c10_cuda HINTS ${_libtorch_roots} PATH_SUFFIXES lib NO_DEFAULT_PATH)
      find_path(LibTorch_NCCL_INCLUDE_DIR nccl.h HINTS "${_libtorch_site}/nvidia/nccl/include")
      find_package(CUDAToolkit QUIET)
      # Its CUDA half can be linked where the toolkit's headers are and the wheel's own CUDA packages too.
      if(CUDAToolkit_FOUND AND LibTorch_CUDA_LIBRARY AND LibTorch_NCCL_INCLUDE_DIR AND EXISTS "${_libtorch_site}/nvidia/cudnn")
        add_library(LibTorch::CUDA INTERFACE IMPORTED)
        target_include_directories(LibTorch::CUDA SYSTEM INTERFACE "${LibTorch_NCCL_INCLUDE_DIR}" ${CUDAToolkit_INCLUDE_DIRS})
        # Static registrations make libtorch_cuda's devices known, so it must stay although no symbol needs it.
        target_link_libraries(LibTorch::CUDA INTERFACE LibTorch::LibTorch
          "-Wl,--no-as-needed" "${LibTorch_CUDA_LIBRARY}" "${LibTorch_C10_CUDA_LIBRARY}" "-Wl,--as-needed")
      endif()
    endif()
  endif()
  if(LibTorch_INCLUDE_DIR)
    list(GET LibTorch_INCLUDE_DIR 0 _libtorch_include)
    foreach(_part MAJOR MINOR PATCH)
      file(STRINGS "${_libtorch_include}/torch/headeronly/version.h" _line REGEX "define TORCH_VERSION_${_part} ")
      string(REGEX MATCH "[0-9]+" _number "${_line}")
      list(APPEND _libtorch_version "${_number}")
    endforeach()
    list(JOIN _libtorch_version "." LibTorch_VERSION)
  endif()
endif()

find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_ORIGIN LibTorch_INCLUDE_DIR
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "run scripts/setup, or name your own LibTorch by -DCMAKE_PREFIX_PATH=/path/to/libtorch")
