// SPDX-License-Identifier: Apache-2.0
#include "data.h"

#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <random>
#include <string_view>
#include <utility>

#include "bytes.h"

namespace {

constexpr std::string_view kMagic = "digits1\n";

void append(Digits& digits, std::span<const std::uint8_t> record) {
  for (const std::uint8_t pixel : record.first(kPixels))
    digits.pixels.push_back(static_cast<float>(pixel) / 16);
  digits.labels.push_back(record[kPixels]);
}

}  // namespace

Digits select(const Digits& digits, std::span<const std::size_t> indices) {
  Digits selected;
  for (const std::size_t i : indices) {
    const auto image = std::span(digits.pixels).subspan(i * kPixels, kPixels);
    selected.pixels.insert(selected.pixels.end(), image.begin(), image.end());
    selected.labels.push_back(digits.labels[i]);
  }
  return selected;
}

DigitsSplit load_digits(const std::string& path) {
  const std::vector<std::uint8_t> bytes = read_file(path);
  ByteReader reader(path, bytes);
  const auto magic = reader.take(kMagic.size());
  if (std::string_view(reinterpret_cast<const char*>(magic.data()), magic.size()) != kMagic)
    throw FileError(path + ": not a file of digits, which begins with \"digits1\\n\"");
  const std::uint32_t count = reader.u32(), checksum = reader.u32();
  const auto records = reader.take(count * (kPixels + 1));
  if (reader.left() != 0)
    throw FileError(fmt::format("{}: {} bytes too long for {} images", path, reader.left(), count));
  if (crc32(records) != checksum)
    throw FileError(
        fmt::format("{}: damaged: CRC-32 is {:08x}, expected {:08x}", path, crc32(records), checksum));

  DigitsSplit split;
  for (std::size_t i = 0; i < count; ++i) {
    const auto record = records.subspan(i * (kPixels + 1), kPixels + 1);
    if (record[kPixels] >= kClasses)
      throw FileError(
          fmt::format("{}: image {} has the label {}, expected 0 to 9", path, i, record[kPixels]));
    append(i % 5 == 4 ? split.test : split.train, record);
  }
  return split;
}

std::string default_digits_file() {
  if (std::filesystem::exists(SYNCBN_DIGITS_FILE)) return SYNCBN_DIGITS_FILE;
  return std::filesystem::read_symlink("/proc/self/exe").replace_filename("digits.bin");
}

std::vector<std::size_t> epoch_order(std::size_t count, std::uint64_t seed, std::size_t epoch) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  // std::shuffle and the distributions differ between standard libraries; the engine does not.
  std::mt19937_64 random(seed * 1'000'003 + epoch);
  for (std::size_t i = count; i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  return order;
}

Share share_of_rank(std::size_t batch, int rank, int ranks) {
  const auto end_of_first = [&](int n) {  // n ranks
    const auto first = static_cast<std::size_t>(n), all = static_cast<std::size_t>(ranks);
    const std::size_t parts = first * (first + 1), whole = all * (all + 1);
    return std::min(batch, std::max(2 * first, (2 * batch * parts + whole) / (2 * whole)));  // rounded
  };
  return {end_of_first(rank), end_of_first(rank + 1)};
}
