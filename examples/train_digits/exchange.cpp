// SPDX-License-Identifier: Apache-2.0
#include "exchange.h"

#include <array>
#include <bit>
#include <vector>

#include "syncbn/group.h"

void give_to_all(std::span<float> values, Share own) {
  // As integers in doubles: a sum with zeros then keeps the sign of -0 and a NaN's payload too.
  std::vector<double> bits(values.size());
  for (std::size_t i = own.begin; i < own.end; ++i) bits[i] = std::bit_cast<std::uint32_t>(values[i]);
  syncbn::all_reduce_sum(bits);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = std::bit_cast<float>(static_cast<std::uint32_t>(bits[i]));
}

bool same_on_all_ranks(std::uint64_t value) {
  std::array<float, 2> of_rank_0{std::bit_cast<float>(static_cast<std::uint32_t>(value)),
                                 std::bit_cast<float>(static_cast<std::uint32_t>(value >> 32))};
  const bool here = syncbn::get_rank() == 0;
  give_to_all(of_rank_0, here ? Share{0, 2} : Share{0, 0});
  const auto low = std::bit_cast<std::uint32_t>(of_rank_0[0]),
             high = std::bit_cast<std::uint32_t>(of_rank_0[1]);
  double differing = (std::uint64_t{high} << 32 | low) == value ? 0 : 1;
  syncbn::all_reduce_sum(std::span(&differing, 1));
  return differing == 0;
}
