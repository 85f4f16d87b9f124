#include "wan/generate/deal.hpp"

#include <doctest/doctest.h>

#include <numeric>
#include <vector>

namespace deal_test {

TEST_CASE("every prompt is dealt once, in rounds, and only the last one may leave groups without") {
  for (int64_t groups : {1, 2, 3, 5})
    for (int64_t prompts : {5, 6, 7}) {
      std::vector<int64_t> dealt;
      for (int64_t round = 0; round < wan::Deal{prompts, groups}.rounds(); ++round)
        for (int64_t group = 0; group < groups; ++group)
          if (const auto prompt = wan::Deal{prompts, groups, group}.prompt(round)) dealt.push_back(*prompt);
      std::vector<int64_t> expected(static_cast<size_t>(prompts));
      std::iota(expected.begin(), expected.end(), 0);
      CHECK(dealt == expected);
    }
  CHECK(wan::Deal{.prompts = 5, .groups = 2, .group = 1}.rounds() == 3);
  CHECK_FALSE(wan::Deal{.prompts = 5, .groups = 2, .group = 1}.prompt(2));
}

}  // namespace deal_test
