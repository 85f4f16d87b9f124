#pragma once
// What nearly every file of the pipeline includes, parsed once.
#include <fmt/format.h>
#include <torch/nn.h>
#include <torch/types.h>
