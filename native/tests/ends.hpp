// The two ends of a ring pair as the module has them, without Python; a doorbell that is lost is a failed
// check.
#pragma once

#include <poll.h>

#include <chrono>
#include <cstdint>

#include "check.hpp"
#include "doorbell.hpp"
#include "ring.hpp"
#include "segment.hpp"
#include "spin.hpp"

namespace wfserve::test {

inline constexpr int kPatience = 10;  // seconds that only a lost doorbell takes

inline RingPair& rings_in(const Mapping& mapping) {
    return *reinterpret_cast<RingPair*>(mapping.data());
}

// What both ends are made from.
struct Pair {
    Fd memory = create_memfd("wfserve-test-rings", sizeof(RingPair));
    Fd doorbell = create_eventfd();
    Mapping map() const { return Mapping(memory.get(), sizeof(RingPair)); }
};

class Server {
  public:
    Server(RingPair& rings, int doorbell) : out_(rings.to_child), in_(rings.to_server), doorbell_(doorbell) {}

    bool send(const Entry& entry) {
        if (!out_.push(entry)) return false;
        if (out_.must_wake()) wake_futex(out_.asleep());
        return true;
    }

    void wait_awake() {
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2 * kPatience);
        while (in_.available() == 0) {
            CHECK(std::chrono::steady_clock::now() < end);
            relax();
        }
    }

    // Hand all there is to `take`; how many those were.
    template <class Take>
    std::uint64_t drain(Take take) {
        const std::uint64_t count = in_.available();
        for (std::uint64_t left = count; left > 0; --left) take(in_.pop());
        return count;
    }

    // Sleep until there is something to drain, for at most `milliseconds`; false if there is nothing.
    bool wait(int milliseconds) {
        if (!in_.fall_asleep()) return true;
        pollfd doorbell{doorbell_, POLLIN, 0};
        const bool rung = ::poll(&doorbell, 1, milliseconds) == 1;
        clear_eventfd(doorbell_);
        return rung;
    }

  private:
    Producer out_;
    Consumer in_;
    int doorbell_;
};

class Child {
  public:
    Child(RingPair& rings, int doorbell, bool spins = true)
        : in_(rings.to_child), out_(rings.to_server), doorbell_(doorbell), spins_(spins) {}

    Entry receive() {
        const auto ready = [this] { return in_.available() != 0; };
        if (spins_ && !ready() && policy_.next()) policy_.learn(spin(ready, kBriefSpin));
        while (!ready()) {
            if (in_.fall_asleep()) sleep();
        }
        return in_.pop();
    }

    void send(const Entry& entry) {
        while (!out_.push(entry)) relax();
        if (out_.must_wake()) ring_eventfd(doorbell_);
    }

  private:
    void sleep() {
        const auto began = std::chrono::steady_clock::now();
        wait_futex(in_.asleep(), 1, timespec{kPatience, 0});
        CHECK(std::chrono::steady_clock::now() - began < std::chrono::seconds(kPatience));
    }

    Consumer in_;
    Producer out_;
    SpinPolicy policy_;
    int doorbell_;
    bool spins_;
};

}  // namespace wfserve::test
