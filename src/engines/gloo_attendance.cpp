#include "engines/gloo_attendance.h"

#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "syncbn/error.h"

namespace syncbn::engines {
namespace {

// For all that is asked at one time: a waiting rank must not miss its sum for it, nor its deadline by much.
constexpr auto kPatience = std::chrono::milliseconds(300);

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
void GlooAttendance::waits_in(std::int64_t sum) {
  if (silent_) return;
  try {
    store().add(counter(rank_), sum - told_);
    told_ = sum;
  } catch (const Error&) {
    silent_ = true;
  }
}

std::vector<int> GlooAttendance::absent_from(std::int64_t sum) {
  try {
    if (silent_) return {};
    std::vector<int> absent;
    rendezvous::TcpStore asked = store();
    for (int rank = 0; rank < size_; ++rank) {
      if (rank != rank_ && asked.add(counter(rank), 0) < sum) absent.push_back(rank);
    }
    return absent;
  } catch (const Error&) {
    silent_ = true;
    return {};
  }
}

rendezvous::TcpStore GlooAttendance::store() const {
  return {host_, port_, token_, std::chrono::steady_clock::now() + kPatience};
}

std::string GlooAttendance::counter(int rank) const { return fmt::format("{}{}", key_, rank); }

}  // namespace syncbn::engines
