# Finds LibTorch's shared libraries and makes the target LibTorch::LibTorch, and LibTorch::CUDA where the
# component CUDA is asked for and can be linked.
#
# Looked for in this order:
#   1. where the user says: CMAKE_PREFIX_PATH (cache or environment) or Torch_DIR;
#   2. the Python environment LibTorch_VENV (by default .venv beside the CMakeLists.txt that asks), .venv of the whole
#      project, then the activated one.
#
# TorchConfig.cmake is not asked: the one of the PyPI wheel demands a CUDA toolkit, which most machines lack,
# although libtorch_cpu and libc10 need none.
include(FindPackageHandleStandardArgs)

set(LibTorch_VENV "${CMAKE_CURRENT_SOURCE_DIR}/.venv" CACHE PATH "Python environment that holds the torch wheel")

set(_libtorch_named "")
foreach(_dir "${Torch_DIR}" "$ENV{Torch_DIR}")
  if(_dir)
    list(APPEND _libtorch_named "${_dir}/../../..")
  endif()
endforeach()
find_path(LibTorch_INCLUDE_DIR ATen/ATen.h
  HINTS ${_libtorch_named}
  PATH_SUFFIXES include torch/include ../../include
  NO_SYSTEM_ENVIRONMENT_PATH NO_CMAKE_SYSTEM_PATH)
file(GLOB _libtorch_wheels
  "${LibTorch_VENV}/lib/python3*/site-packages/torch" "${CMAKE_SOURCE_DIR}/.venv/lib/python3*/site-packages/torch"
  "$ENV{VIRTUAL_ENV}/lib/python3*/site-packages/torch")
find_path(LibTorch_INCLUDE_DIR ATen/ATen.h HINTS ${_libtorch_wheels} PATH_SUFFIXES include NO_DEFAULT_PATH)

if(LibTorch_INCLUDE_DIR)
  get_filename_component(LibTorch_ROOT_DIR "${LibTorch_INCLUDE_DIR}/.." ABSOLUTE)
  foreach(_part MAJOR MINOR PATCH)
    file(STRINGS "${LibTorch_INCLUDE_DIR}/torch/headeronly/version.h" _line REGEX "define TORCH_VERSION_${_part} ")
    string(REGEX MATCH "[0-9]+" _libtorch_${_part} "${_line}")
  endforeach()
  set(LibTorch_VERSION "${_libtorch_MAJOR}.${_libtorch_MINOR}.${_libtorch_PATCH}")
endif()
foreach(_name torch_cpu c10 torch_cuda c10_cuda)
  find_library(LibTorch_${_name}_LIBRARY ${_name} HINTS "${LibTorch_ROOT_DIR}" PATH_SUFFIXES lib NO_DEFAULT_PATH)
endforeach()


# The CUDA half needs headers of the toolkit and of NCCL, and at run time cuDNN and its kin, which a wheel
# installed without its dependencies lacks.
if(CUDA IN_LIST LibTorch_FIND_COMPONENTS AND LibTorch_torch_cuda_LIBRARY AND LibTorch_c10_cuda_LIBRARY)
  get_filename_component(_libtorch_nvidia "${LibTorch_ROOT_DIR}/../nvidia" ABSOLUTE)
  find_package(CUDAToolkit QUIET)
  find_path(LibTorch_NCCL_INCLUDE_DIR nccl.h
    HINTS "${_libtorch_nvidia}/nccl/include" "${LibTorch_INCLUDE_DIR}" ${CUDAToolkit_INCLUDE_DIRS})
  find_library(LibTorch_CUDNN_LIBRARY NAMES cudnn libcudnn.so.9
    HINTS "${LibTorch_ROOT_DIR}/lib" "${_libtorch_nvidia}/cudnn/lib")
  if(CUDAToolkit_FOUND AND LibTorch_NCCL_INCLUDE_DIR AND LibTorch_CUDNN_LIBRARY)
    set(LibTorch_CUDA_FOUND TRUE)
  endif()
endif()

find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_torch_cpu_LIBRARY LibTorch_c10_LIBRARY LibTorch_INCLUDE_DIR
  VERSION_VAR LibTorch_VERSION
  HANDLE_COMPONENTS
  REASON_FAILURE_MESSAGE "run scripts/setup, or name your own LibTorch by -DCMAKE_PREFIX_PATH=/path/to/libtorch. \
Its CUDA component wants a CUDA toolkit, NCCL's headers and cuDNN (scripts/setup --full).")
mark_as_advanced(LibTorch_INCLUDE_DIR LibTorch_torch_cpu_LIBRARY LibTorch_c10_LIBRARY LibTorch_torch_cuda_LIBRARY
  LibTorch_c10_cuda_LIBRARY LibTorch_NCCL_INCLUDE_DIR LibTorch_CUDNN_LIBRARY)

if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  find_package(Threads REQUIRED)
  add_library(LibTorch::LibTorch INTERFACE IMPORTED)
  target_include_directories(LibTorch::LibTorch SYSTEM INTERFACE
    "${LibTorch_INCLUDE_DIR}" "${LibTorch_INCLUDE_DIR}/torch/csrc/api/include")
  target_link_libraries(LibTorch::LibTorch INTERFACE
    "${LibTorch_torch_cpu_LIBRARY}" "${LibTorch_c10_LIBRARY}" Threads::Threads)
  # libtorch_cpu of the wheel finds the CUDA runtime that it wants by its own RPATH; the linker need not.
  target_link_options(LibTorch::LibTorch INTERFACE "LINKER:--allow-shlib-undefined")
endif()
if(LibTorch_CUDA_FOUND AND NOT TARGET LibTorch::CUDA)
  add_library(LibTorch::CUDA INTERFACE IMPORTED)
  target_include_directories(LibTorch::CUDA SYSTEM INTERFACE
    "${LibTorch_NCCL_INCLUDE_DIR}" ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(LibTorch::CUDA INTERFACE
    LibTorch::LibTorch "${LibTorch_torch_cuda_LIBRARY}" "${LibTorch_c10_cuda_LIBRARY}")
  # libtorch_cuda registers its kernels when it is loaded, so it must stay although no symbol needs it.
  target_link_options(LibTorch::CUDA INTERFACE "LINKER:--no-as-needed")
endif()
