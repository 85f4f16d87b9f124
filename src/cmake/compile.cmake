# How everything in this tree is compiled. Parsing LibTorch's headers, or loading them precompiled, costs more than
# compiling what is ours: so one precompiled header serves all, and sources are compiled several at a time.
option(WANPAR_UNITY_BUILD "compile sources several at a time; OFF for working on single files" ON)

# What the precompiled header was made with is what all must be compiled with.
add_library(wanpar_compile INTERFACE)
if(NOT DEFINED CMAKE_POSITION_INDEPENDENT_CODE OR CMAKE_POSITION_INDEPENDENT_CODE)
  target_compile_options(wanpar_compile INTERFACE -fPIC)
endif()
target_compile_definitions(wanpar_compile INTERFACE FMT_HEADER_ONLY USE_DISTRIBUTED $<$<BOOL:${WANPAR_GLOO}>:USE_C10D_GLOO>)
target_link_libraries(wanpar_compile INTERFACE LibTorch::LibTorch)

add_library(wanpar_precompiled OBJECT ${CMAKE_CURRENT_LIST_DIR}/precompiled.cpp)
target_compile_features(wanpar_precompiled PUBLIC cxx_std_20)
target_link_libraries(wanpar_precompiled PRIVATE wanpar_compile)
target_precompile_headers(wanpar_precompiled PRIVATE ${CMAKE_CURRENT_LIST_DIR}/precompiled.hpp)

function(wanpar_compiled target)
  target_link_libraries(${target} PRIVATE $<BUILD_INTERFACE:wanpar_compile>)
  target_precompile_headers(${target} REUSE_FROM wanpar_precompiled)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${WANPAR_UNITY_BUILD} UNITY_BUILD_BATCH_SIZE 16)
endfunction()
