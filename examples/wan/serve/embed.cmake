# Writes a source that holds the bytes of files: cmake -DOUTPUT=assets.cpp "-DFILES=a;b" -P embed.cmake
set(arrays "")
set(entries "")
set(number 0)
foreach(file ${FILES})
  get_filename_component(name ${file} NAME)
  file(READ ${file} bytes HEX)
  string(LENGTH "${bytes}" digits)
  math(EXPR size "${digits} / 2")
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
  string(APPEND arrays "const unsigned char bytes_${number}[] = {${bytes}0};\n")
  string(APPEND entries "    {\"${name}\", {reinterpret_cast<const char*>(bytes_${number}), ${size}}},\n")
  math(EXPR number "${number} + 1")
endforeach()
file(WRITE ${OUTPUT} "#include \"wan/serve/assets.hpp\"

namespace wan::serve {
namespace {

${arrays}
const Asset all[] = {
${entries}};

}  // namespace

std::span<const Asset> assets() { return all; }

}  // namespace wan::serve
")
