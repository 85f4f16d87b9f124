#pragma once
// What nearly every test includes, parsed once. LibTorch's logging has a CHECK of its own, which ends the
// process: doctest comes last, so that its CHECK is the one that stands.
#include <fmt/format.h>
#include <torch/nn.h>
#include <torch/script.h>
#include <torch/types.h>

#include <doctest/doctest.h>
