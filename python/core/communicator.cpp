// SPDX-License-Identifier: Apache-2.0
#include "communicator.h"

#include <fmt/core.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "errors.h"
#include "syncbn/error.h"

namespace nb = nanobind;

namespace syncbn::python {
namespace {

using Words = std::vector<std::int64_t>;
using Array = nb::ndarray<nb::numpy, std::int64_t, nb::ndim<1>, nb::c_contig>;

// Makes an array of the words. The array owns a share of their memory, so that an abandoned request may still
// write to it.
nb::object array_of(const std::shared_ptr<Words>& words, std::size_t count) {
  const nb::capsule owner(new std::shared_ptr<Words>(words),
                          [](void* p) noexcept { delete static_cast<std::shared_ptr<Words>*>(p); });
  return nb::cast(Array(words->data(), {count}, owner));
}

// Class and message. The package's own errors, which its engines raise, need no class.
std::string text_of(const nb::python_error& error) {
  if (error.matches(nb::module_::import_("syncbn._errors").attr("Error")))
    return nb::cast<std::string>(nb::str(error.value()));
  return nb::cast<std::string>(nb::str(error.type().attr("__name__"))) + ": " +
         nb::cast<std::string>(nb::str(error.value()));
}

int int_of(const nb::object& engine, const char* attribute) {
  int value = 0;
  const nb::object given = engine.attr(attribute);
  if (nb::try_cast(given, value)) return value;
  throw nb::type_error(fmt::format("process_group: {} = {}, expected an int", attribute,
                                   nb::cast<std::string>(nb::repr(given)))
                           .c_str());
}

// An engine in Python. The functions of MultiHostCommunicator call its methods of the same names. An engine
// without the method connect_leaders needs none of these methods.
class PythonCommunicator final : public MultiHostCommunicator {
 public:
  explicit PythonCommunicator(const nb::object& engine)
      : rank_(int_of(engine, "rank")),
        size_(int_of(engine, "size")),
        engine_(engine),
        all_reduce_sum_(engine.attr("all_reduce_sum")) {}
  ~PythonCommunicator() override {
    if (!nb::is_alive()) {  // the interpreter has ended: its objects can't be released
      static_cast<void>(engine_.release());
      static_cast<void>(all_reduce_sum_.release());
      static_cast<void>(array_.release());
      return;
    }
    const nb::gil_scoped_acquire locked;
    engine_.reset();
    all_reduce_sum_.reset();
    array_.reset();
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::span<std::int64_t> buffer(std::size_t words) override {
    if (words_->size() < words) {
      auto longer = std::make_shared<Words>(words);
      std::copy(words_->begin(), words_->end(), longer->begin());
      words_ = std::move(longer);
      array_words_ = 0;
    }
    return *words_;
  }
  void start(std::size_t words) override { started_words_ = words; }

  void wait(Deadline deadline) override {
    calling_python(
        [&] {
          if (array_words_ != started_words_) {  // seldom: the messages of a training loop have few lengths
            array_ = array_of(words_, started_words_);
            array_words_ = started_words_;
          }
          all_reduce_sum_(array_, seconds_until(deadline));
        },
        &keep_exception);
  }
  // An operation in Python can't be cancelled; its timeout ends it.
  void abort() noexcept override {}

  std::unique_ptr<MultiHostCommunicator> connect_leaders(const std::vector<int>& ranks,
                                                         Deadline deadline) override {
    std::unique_ptr<MultiHostCommunicator> leaders;
    calling_python([&] {
      if (!nb::hasattr(engine_, "connect_leaders")) return;
      leaders = std::make_unique<PythonCommunicator>(
          engine_.attr("connect_leaders")(ranks, seconds_until(deadline)));
    });
    return leaders;
  }
  bool sums_in_background() const override { return false; }
  void report_waiting(std::int64_t sum) override {
    calling_python([&] { engine_.attr("report_waiting")(sum); });
  }
  std::vector<int> absent_from(std::int64_t sum) override {
    std::vector<int> absent;
    calling_python([&] { absent = nb::cast<std::vector<int>>(engine_.attr("absent_from")(sum)); });
    return absent;
  }
  void give_up(const std::string& reason) noexcept override {
    try {
      calling_python([&] { engine_.attr("give_up")(reason); });
    } catch (...) {  // the peers' deadlines end their waits
    }
  }
  void check_peers() override {
    calling_python([&] { engine_.attr("check_peers")(); });
  }

 private:
  static double seconds_until(Deadline deadline) {
    const std::chrono::duration<double> timeout = deadline - std::chrono::steady_clock::now();
    return std::max(0.0, timeout.count());
  }
  template <class Call>
  static void calling_python(
      const Call& call, void (*on_error)(nb::handle) = [](nb::handle) {}) {
    const nb::gil_scoped_acquire locked;
    try {
      call();
    } catch (const nb::python_error& error) {
      if (!error.matches(PyExc_Exception)) throw;
      on_error(error.value());
      if (error.matches(PyExc_TimeoutError)) throw TimeoutError(text_of(error));
      throw PeerError(text_of(error));
    }
  }

  int rank_;
  int size_;
  nb::object engine_;
  nb::object all_reduce_sum_;
  std::shared_ptr<Words> words_ = std::make_shared<Words>();
  nb::object array_;
  std::size_t array_words_ = 0;
  std::size_t started_words_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> python_communicator(nb::object engine) {
  return std::make_unique<PythonCommunicator>(engine);
}

}  // namespace syncbn::python
