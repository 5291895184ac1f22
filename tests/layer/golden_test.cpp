// SPDX-License-Identifier: Apache-2.0

// The golden vectors pin bits_version 1. They come from tests/golden/generate.py, which knows neither the
// library nor the oracle. A difference is a bug, or a new bits_version together with new vectors.
//
// control: with m2 in double arithmetic, flP by way of float, c1 from c2 instead of c2_64, ReLU's mask left
// out of the gradient sums, skip_update ignored, or the biased variance in running_var, Library fails.

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "layer/harness.h"

namespace syncbn::testing {
namespace {

using Fields = std::map<std::string, std::vector<std::string>>;  // key, then the words of its line

std::vector<double> numbers(const std::string& hex, oracle::Type type) {
  const std::size_t width = static_cast<std::size_t>(oracle::bits_of(type)) / 4;
  std::vector<double> values;
  for (std::size_t i = 0; hex != "-" && i < hex.size(); i += width) {
    values.push_back(oracle::decode(type, std::stoull(hex.substr(i, width), nullptr, 16)));
  }
  return values;
}

struct Golden {
  std::string name;
  Case c;
  oracle::Result expected;
};

oracle::Type type_in(const Fields& fields, const char* key) {
  const std::string& name = fields.at(key).front();
  for (const oracle::Type type : oracle::kTypes) {
    if (name == oracle::name_of(type)) return type;
  }
  throw std::logic_error("unknown type " + name);
}

Golden parse(const Fields& fields) {
  Golden golden;
  const auto word = [&](const char* key) { return fields.at(key).front(); };
  const auto values = [&](const char* key, oracle::Type t) {
    return fields.contains(key) ? numbers(word(key), t) : std::vector<double>();
  };
  for (const std::string& part : fields.at("case")) golden.name += part + " ";
  Case& c = golden.c;
  oracle::Result& expected = golden.expected;
  const oracle::Type input = c.settings.input = type_in(fields, "input");
  const oracle::Type parameters = c.settings.parameters = type_in(fields, "parameters");
  c.settings.eps = numbers(word("eps"), oracle::Type::float64)[0];
  c.settings.momentum.reset();
  if (word("momentum") != "none") c.settings.momentum = numbers(word("momentum"), oracle::Type::float64)[0];
  c.training = word("mode") == "train";
  c.settings.relu = word("relu") == "1";
  c.settings.group_gradients = word("group_gradients") == "1";
  c.settings.skip_nonfinite_update = word("skip_update") == "1";
  c.channels = std::stoll(word("channels"));
  c.state.weight = values("weight", parameters);
  c.state.bias = values("bias", parameters);
  c.state.running_mean = values("running_mean", parameters);
  c.state.running_var = values("running_var", parameters);
  if (fields.contains("tracked")) c.state.batches_tracked = std::stoll(word("tracked"));

  expected.mean = values("=mean", oracle::Type::float64);
  expected.var = values("=var", oracle::Type::float64);
  expected.invstd = values("=invstd", oracle::Type::float64);
  expected.state.running_mean = values("=running_mean", parameters);
  expected.state.running_var = values("=running_var", parameters);
  if (fields.contains("=tracked")) expected.state.batches_tracked = std::stoll(word("=tracked"));
  const std::vector<std::string>& shares = fields.at("shares");
  for (std::size_t r = 0; r < shares.size() / 2; ++r) {
    oracle::Share share;
    share.samples = std::stoll(shares[2 * r]);
    share.places = std::stoll(shares[2 * r + 1]);
    share.x = numbers(fields.at("x")[r], input);
    share.dy = numbers(fields.at("dy")[r], input);
    if (fields.contains("residual")) share.residual = numbers(fields.at("residual")[r], input);
    expected.count += share.samples * share.places;
    c.shares.push_back(share);
    oracle::RankResult rank;
    rank.y = numbers(fields.at("=y")[r], input);
    rank.dx = numbers(fields.at("=dx")[r], input);
    rank.d_residual = numbers(fields.at("=d_residual")[r], input);
    if (fields.contains("=weight_grad")) {
      rank.weight_grad = numbers(fields.at("=weight_grad")[r], parameters);
      rank.bias_grad = numbers(fields.at("=bias_grad")[r], parameters);
    }
    expected.ranks.push_back(rank);
  }
  return golden;
}

template <class Parse>
auto read_vectors(const char* name, const Parse& parse) {
  std::ifstream file(std::string(SYNCBN_GOLDEN) + "/" + name);
  std::vector<decltype(parse(Fields()))> all;
  Fields fields;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    std::string key, word;
    words >> key;
    if (key == "end") {
      all.push_back(parse(fields));
      fields.clear();
      continue;
    }
    while (words >> word) fields[key].push_back(word);
  }
  return all;
}

std::vector<Golden> read_vectors() { return read_vectors("vectors.txt", parse); }

TEST(Golden, Library) {
  const std::vector<Golden> vectors = read_vectors();
  ASSERT_GT(vectors.size(), 100u);
  for (const Golden& golden : vectors) {
    for (const Layout layout : {Layout::channels_first, Layout::channels_last}) {
      Case c = golden.c;
      c.layout = layout;
      EXPECT_TRUE(same_bits(golden.expected, run_library(c))) << golden.name << describe(c);
    }
  }
}

// The two independent implementations agree.
TEST(Golden, Oracle) {
  for (const Golden& golden : read_vectors()) {
    EXPECT_TRUE(same_bits(golden.expected, run_oracle(golden.c))) << golden.name << describe(golden.c);
  }
}

TEST(GoldenControl, OneBitIsSeen) {
  Golden golden = read_vectors().front();
  double& y = golden.expected.ranks.front().y.front();
  y = oracle::decode(golden.c.settings.input, oracle::encode(golden.c.settings.input, y) ^ 1);
  EXPECT_FALSE(same_bits(golden.expected, run_library(golden.c)));
}

struct GoldenMatmul {
  std::string name;
  Matmul m;
  std::vector<double> expected;
};

GoldenMatmul parse_matmul(const Fields& fields) {
  GoldenMatmul golden{fields.at("case").front(), {type_in(fields, "type")}, {}};
  Matmul& m = golden.m;
  m.a_columns = std::stoll(fields.at("columns")[0]);
  m.b_columns = std::stoll(fields.at("columns")[1]);
  for (std::size_t r = 0; r < fields.at("rows").size(); ++r) {
    m.shares.push_back({std::stoll(fields.at("rows")[r]), numbers(fields.at("a")[r], m.type),
                        numbers(fields.at("b")[r], m.type)});
  }
  golden.expected = numbers(fields.at("=c").front(), m.type);
  return golden;
}

TEST(Golden, Matmul) {
  const auto vectors = read_vectors("matmul_vectors.txt", parse_matmul);
  ASSERT_GT(vectors.size(), 30u);
  for (const GoldenMatmul& golden : vectors) {
    EXPECT_TRUE(same_bits(golden.expected, run_library(golden.m))) << golden.name;
    EXPECT_TRUE(same_bits(golden.expected, run_oracle(golden.m))) << golden.name;
  }
}

}  // namespace
}  // namespace syncbn::testing
