#pragma once
// What nearly every test includes, parsed once.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <torch/script.h>
#include <torch/types.h>
