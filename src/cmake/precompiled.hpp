#pragma once
// What nearly every source includes, parsed once.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <fmt/format.h>
#include <torch/nn.h>
#include <torch/script.h>
#include <torch/types.h>
