// SPDX-License-Identifier: Apache-2.0
#include "kernels/matmul.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <type_traits>

#include "base/parallel_for.h"
#include "exact/record.h"
#include "exact/value_row.h"
#include "kernels/convert.h"
#include "kernels/plan.h"

namespace syncbn::kernels::matmul {
namespace {

// Products side by side, and elements of one factor of a block: of 64 products that is 128 rows, as many as
// the accumulators of sum_lanes.cpp take in one pass.
constexpr std::int64_t kTogether = 64;
constexpr std::int64_t kBlock = kTogether * 128;

// Calls body(first product, products) for all products of a call, some side by side, in parallel. `rows` is
// the work on a product, beside digits and rounding, which take as long as some 128 rows. A task takes about
// 0.5 ms: with smaller ones, steps of train_digits woke threads for longer than they saved.
template <class Body>
void for_each_products(const MatmulCall& call, std::int64_t rows, const Body& body) {
  const std::int64_t width = std::min(kTogether, kLocalWords / exact::sum_format(call.dtype).words());
  const std::int64_t of_task = (32 * kTaskElements / (rows + 128) / width + 1) * width;
  const std::int64_t tasks = std::max<std::int64_t>(call.products / of_task, 1);
  base::parallel_for(static_cast<int>(tasks), [&](int task) {
    const std::int64_t end = call.products * (task + 1) / tasks;
    for (std::int64_t first = call.products * task / tasks; first < end; first += width)
      body(first, std::min(width, end - first));
  });
}

// A product is a channel, in channels-last: the kernels for Σa·b take the factors of some products side by
// side.
template <class Storage>
void accumulate(AccumulatePart accumulate_part, const MatmulCall& call, std::int64_t first,
                std::int64_t products, std::int64_t* message) {
  const exact::SumFormat& format = exact::sum_format(call.dtype);
  const int row_words = exact::value_row_words(exact::product_rows(format));
  std::array<const Storage*, kTogether> a_columns, b_columns;
  for (std::int64_t i = 0; i < products; ++i) {
    const std::int64_t product = call.first + first + i;
    const auto at = static_cast<std::size_t>(i);
    a_columns[at] = static_cast<const Storage*>(call.a) + product / call.b_columns;
    b_columns[at] = static_cast<const Storage*>(call.b) + product % call.b_columns;
  }
  std::array<Storage, kBlock> a, b;
  std::array<std::int64_t, kLocalWords> words;
  const exact::Records records(words.data(), format);
  for (std::int64_t row = 0; row < call.rows;) {
    const std::int64_t end = std::min(row + kBlock / products, call.rows);
    const Geometry g{call.dtype, Layout::channels_last, end - row, products, 1};
    for (std::size_t to = 0; row < end; ++row) {
      for (std::size_t i = 0; i < static_cast<std::size_t>(products); ++i, ++to) {
        a[to] = a_columns[i][row * call.a_columns];
        b[to] = b_columns[i][row * call.b_columns];
      }
    }
    accumulate_part({a.data()}, {b.data()}, g, whole(g), records);
    for (std::int64_t i = 0; i < products; ++i) {
      records[i].expand();
      exact::add_products(records[i], message + (first + i) * row_words);
    }
  }
}

}  // namespace

void accumulate(AccumulatePart accumulate_part, const MatmulCall& call, std::span<std::int64_t> message) {
  if (call.rows == 0) return;  // a and b may be null
  with_storage(call.dtype, [&](auto* null) {
    using Storage = std::remove_pointer_t<decltype(null)>;
    for_each_products(call, call.rows, [&](std::int64_t first, std::int64_t products) {
      accumulate<Storage>(accumulate_part, call, first, products, message.data());
    });
  });
}

void round(const MatmulCall& call, std::span<const std::int64_t> message) {
  const exact::SumFormat format = exact::product_rows(exact::sum_format(call.dtype));
  for_each_products(call, 0, [&](std::int64_t first, std::int64_t products) {
    for (std::int64_t i = first; i < first + products; ++i) {
      const std::int64_t* row = message.data() + i * exact::value_row_words(format);
      if (call.dtype == DType::float64) {
        static_cast<double*>(call.c)[call.first + i] = exact::value_of<double>(row, format);
      } else {
        static_cast<float*>(call.c)[call.first + i] = exact::value_of<float>(row, format);
      }
    }
  });
}

}  // namespace syncbn::kernels::matmul
