// A spin ends within its time, and one that did not pay is tried ever more seldom: an idle machine, a busy
// one and one with a single core hardly see it.
#pragma once

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace wfserve {

// About what it costs to put a thread to sleep and to wake it again.
inline constexpr std::chrono::microseconds kBriefSpin{20};

// Says which waits begin with a spin: after n in a row that did not pay, 2^n - 1 waits go without one; one
// that pays makes up for all of them.
class SpinPolicy {
  public:
    // Whether the wait that begins now is one of them.
    bool next() {
        if (skips_ == 0) return true;
        --skips_;
        return false;
    }

    void learn(bool paid) {
        misses_ = paid ? 0 : std::min(misses_ + 1, kMostMisses);
        skips_ = (std::uint32_t{1} << misses_) - 1;
    }

  private:
    static constexpr std::uint32_t kMostMisses = 10;  // then one wait in 1024 begins with a spin
    std::uint32_t misses_ = 0;                        // in a row
    std::uint32_t skips_ = 0;                         // waits that are still to go without
};

// Brief spins and long ones learn apart: where the one does not pay, the other may.
class SpinPolicies {
  public:
    SpinPolicy& of(std::chrono::microseconds time) { return time > kBriefSpin ? long_ : brief_; }

  private:
    SpinPolicy brief_;
    SpinPolicy long_;
};

// Tell the core that this is a loop that waits.
inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// How often this thread has had to leave a core that another one wanted.
inline long preemptions() {
    rusage usage{};
    ::getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nivcsw;
}

// Ask `ready` over and over, for at most `time`. Whether that paid: false if it was never ready, and if
// the core could have been another thread's meanwhile, perhaps that of the very one that is waited for.
template <class Ready>
bool spin(Ready ready, std::chrono::microseconds time) {
    const long before = preemptions();
    const auto end = std::chrono::steady_clock::now() + time;
    while (!ready()) {
        if (std::chrono::steady_clock::now() >= end) return false;
        for (int moment = 0; moment < 8; ++moment) relax();
    }
    return preemptions() == before;
}

}  // namespace wfserve
