#include "group/engines/gloo_attendance.h"

#include <fmt/format.h>

#include <utility>

#include "syncbn/error.h"

namespace syncbn::group {
namespace {

// For all that is asked at one time: a waiting rank must not miss its sum for it, nor its deadline by much.
constexpr auto kPatience = std::chrono::milliseconds(300);

Deadline soon() { return std::chrono::steady_clock::now() + kPatience; }

}  // namespace

GlooAttendance::GlooAttendance(std::string host, int port, std::string token, std::string key, int rank,
                               int size)
    : host_(std::move(host)),
      port_(port),
      token_(std::move(token)),
      key_(std::move(key)),
      rank_(rank),
      size_(size) {}

// A counter, not a key: a key that is not set would be waited for.
void GlooAttendance::waits_in(std::int64_t sum) noexcept {
  if (silent_) return;
  try {
    store(soon()).add(counter(rank_), sum - told_);
    told_ = sum;
  } catch (const std::exception&) {
    silent_ = true;
  }
}

std::vector<int> GlooAttendance::absent_from(std::int64_t sum) noexcept {
  try {
    std::vector<int> absent;
    const Deadline deadline = soon();
    for (int rank = 0; rank < size_ && !silent_; ++rank) {
      if (rank != rank_ && store(deadline).add(counter(rank), 0) < sum) absent.push_back(rank);
    }
    return absent;
  } catch (const std::exception&) {
    silent_ = true;
    return {};
  }
}

TcpStore& GlooAttendance::store(Deadline deadline) {
  if (store_ == nullptr) store_ = std::make_unique<TcpStore>(host_, port_, token_, deadline);
  store_->set_deadline(deadline);
  return *store_;
}

std::string GlooAttendance::counter(int rank) const { return fmt::format("{}{}", key_, rank); }

}  // namespace syncbn::group
