#pragma once
#include <ATen/core/Tensor.h>
#include <wanpar/core/communicator.hpp>

#include <functional>
#include <vector>

#include "models/attention_model.hpp"

using namespace wanpar::conformance::models;

// What the strategies promise, each measured on thread ranks, printed as a table in Markdown, and compared
// with its limits.

void print_exactness();
void print_payload();
void print_peak();
void print_bytes_read();
void print_memory();
void print_bubble();
void print_training();
void print_cost_alone();
void print_cost_on_two_ranks();

/// The same weights for whoever asks, on whatever thread.
AttentionModel make_model(at::ScalarType dtype, int64_t layers = 4, int64_t dim = 48);
at::Tensor random(std::vector<int64_t> shape, at::ScalarType dtype, int seed = 7);

/// The worst of what the ranks of some worlds found.
double worst(const std::vector<int>& worlds, const std::function<double(wanpar::Communicator)>& measure);
