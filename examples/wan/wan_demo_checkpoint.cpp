#include <fmt/format.h>

#include <cstdio>
#include <exception>

#include "wan/demo/checkpoint.hpp"

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr,
               "usage: wan_demo_checkpoint FOLDER   (writes a small model with random weights, for tests of "
               "wan_t2v; examples/train/model is a trained one)\n");
    return 2;
  }
  try {
    wan::demo::write_checkpoint(argv[1]);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "wan_demo_checkpoint: {}\n", error.what());
    return 1;
  }
}
