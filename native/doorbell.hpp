// A doorbell wakes one sleeper: an eventfd where an event loop waits, a futex where a thread does.
#pragma once

#include <linux/futex.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <ctime>

#include "segment.hpp"

namespace wfserve {

inline Fd create_eventfd() {
    return Fd(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd");
}

// Neither can block or fail in a way that matters: the counter cannot be full of unread ones, and reading
// an empty one finds nothing to clear.
inline void ring_eventfd(int fd) {
    static_cast<void>(::eventfd_write(fd, 1));
}
inline void clear_eventfd(int fd) {
    eventfd_t count = 0;
    static_cast<void>(::eventfd_read(fd, &count));
}

static_assert(sizeof(std::atomic<std::uint32_t>) == sizeof(std::uint32_t));

// Sleep while `word` is `expected`, for at most `limit`; may return early. Not FUTEX_PRIVATE: the waker is
// another process.
inline void wait_futex(std::atomic<std::uint32_t>& word, std::uint32_t expected, timespec limit) {
    ::syscall(SYS_futex, &word, FUTEX_WAIT, expected, &limit, nullptr, 0);
}

inline void wake_futex(std::atomic<std::uint32_t>& word) {
    ::syscall(SYS_futex, &word, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

}  // namespace wfserve
