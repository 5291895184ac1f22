// SPDX-License-Identifier: Apache-2.0

// Runs a fuzz target over its packed corpus (corpus.py), in builds without libFuzzer: what was found once
// stays found.
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

// "\x7f" is one byte; every other character is itself.
std::vector<std::uint8_t> bytes_of(const std::string& text) {
  std::vector<std::uint8_t> bytes;
  for (std::size_t i = 0; i < text.size(); ++i) {
    auto byte = static_cast<std::uint8_t>(text[i]);
    if (text[i] == '\\') {
      std::from_chars(text.data() + i + 2, text.data() + i + 4, byte, 16);
      i += 3;
    }
    bytes.push_back(byte);
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  std::ifstream corpus(argv[1]);
  int inputs = 0;
  for (std::string line; std::getline(corpus, line);) {
    const std::size_t tab = line.find('\t');
    if (line.empty() || line[0] == '#' || tab == std::string::npos) continue;
    std::printf("%s\n", line.substr(0, tab).c_str());
    std::fflush(stdout);  // a target that finds a fault aborts
    const std::vector<std::uint8_t> bytes = bytes_of(line.substr(tab + 1));
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    ++inputs;
  }
  std::printf("%d inputs\n", inputs);
  return inputs > 0 ? 0 : 1;
}
