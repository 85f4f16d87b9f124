#pragma once
#include <string>

/// Compares a row's figure with what is promised; what is beyond its limit, or is no number, is kept.
void check(const std::string& row, double figure, double limit);
/// Names the rows that are beyond their limits on stderr; whether there are none.
bool are_kept();

/// The greater of the two, or whichever is no number.
double worse(double a, double b);
