#pragma once
#include "suite.hpp"

/// Every strategy that the suite is run for, one entry each; compositions read from the module outwards.
const std::vector<Strategy>& strategies();
const std::vector<Strategy>& compositions();
