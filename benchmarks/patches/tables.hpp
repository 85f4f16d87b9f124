#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

// What displaced patches and the VAE over the ranks take, each printed as a table in Markdown.

void print_decoding();
void print_steps();
void print_overlap();

/// Of a normal distribution, float32.
at::Tensor random(at::IntArrayRef shape, uint64_t seed);

/// How long it takes.
double seconds(const std::function<void()>& run);
double median(std::vector<double> seconds);
