// Each end trusts only its own index: it lives in private memory, and the other end's is checked at every
// use.
//
// A ring has one producer and one consumer, in two processes. Indices count entries since the beginning and
// never wrap in practice (2^64); an entry lies at its index modulo the capacity.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <stdexcept>

namespace wfserve {

struct Entry {
    std::uint32_t kind;
    std::uint32_t segment;
    std::uint64_t tag;
    std::uint64_t offset;
    std::uint64_t length;
};

inline constexpr std::uint64_t kRingCapacity = 256;  // a power of two

struct Ring {
    alignas(64) std::atomic<std::uint64_t> tail;    // entries written; the producer's line
    alignas(64) std::atomic<std::uint64_t> head;    // entries read; the consumer's line
    alignas(64) std::atomic<std::uint32_t> asleep;  // 1 while the consumer wants its doorbell rung
    alignas(64) Entry entries[kRingCapacity];
};

// What lies in a worker's ring memory; fresh memory is two empty rings.
struct RingPair {
    Ring to_child;
    Ring to_server;
};

static_assert(sizeof(Entry) == 32);
static_assert(offsetof(Entry, kind) == 0 && offsetof(Entry, segment) == 4 && offsetof(Entry, tag) == 8);
static_assert(offsetof(Entry, offset) == 16 && offsetof(Entry, length) == 24);
static_assert(offsetof(Ring, head) == 64 && offsetof(Ring, asleep) == 128 && offsetof(Ring, entries) == 192);
static_assert(sizeof(Ring) == 192 + 32 * kRingCapacity);
static_assert((kRingCapacity & (kRingCapacity - 1)) == 0);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free);

// The other end wrote indices that cannot be.
struct CorruptRing : std::invalid_argument {
    CorruptRing() : std::invalid_argument("The indices of a ring are corrupt") {}
};

inline std::uint64_t checked_count(std::uint64_t tail, std::uint64_t head) {
    if (tail - head > kRingCapacity) throw CorruptRing();
    return tail - head;
}

// No doorbell is lost, whichever of the two is faster. The consumer stores `asleep`, then loads `tail`; the
// producer stores `tail`, then loads `asleep`. Both have a sequentially consistent fence in between, so at
// least one of the two loads sees the other's store (Dekker's argument; acquire and release alone would let
// both read the old values): the consumer sees the entry and stays awake, or the producer sees it asleep.
// That holds for several rings whose consumer is one thread, if all their producers look at the same word.
template <class Empty>
bool fall_asleep(std::atomic<std::uint32_t>& asleep, Empty empty) {
    asleep.store(1, std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    if (empty()) return true;
    asleep.store(0, std::memory_order_relaxed);
    return false;
}

class Producer {
  public:
    explicit Producer(Ring& ring) : Producer(ring, ring.asleep) {}

    // Go on behind what the ring holds, with a consumer that sleeps on `asleep`.
    Producer(Ring& ring, std::atomic<std::uint32_t>& asleep)
        : ring_(&ring), asleep_(&asleep), tail_(ring.tail.load(std::memory_order_acquire)) {}

    // Append `entry`; false if the ring is full.
    bool push(const Entry& entry) {
        if (checked_count(tail_, ring_->head.load(std::memory_order_acquire)) == kRingCapacity) return false;
        ring_->entries[tail_ % kRingCapacity] = entry;
        ring_->tail.store(++tail_, std::memory_order_release);
        return true;
    }

    // Whether the doorbell has to be rung after a push; true once for every time the consumer went to sleep.
    bool must_wake() {
        std::atomic_thread_fence(std::memory_order_seq_cst);
        return is_asleep() && asleep_->exchange(0, std::memory_order_relaxed) != 0;
    }

    // Whether the consumer sleeps, or is about to.
    bool is_asleep() const { return asleep_->load(std::memory_order_relaxed) != 0; }

    std::atomic<std::uint32_t>& asleep() { return *asleep_; }

  private:
    Ring* ring_;
    std::atomic<std::uint32_t>* asleep_;
    std::uint64_t tail_;
};

class Consumer {
  public:
    explicit Consumer(Ring& ring) : Consumer(ring, ring.asleep) {}

    // Go on with what the ring holds, and sleep on `asleep`.
    Consumer(Ring& ring, std::atomic<std::uint32_t>& asleep)
        : ring_(&ring), asleep_(&asleep), head_(ring.head.load(std::memory_order_acquire)) {}

    // How many entries can be popped now.
    std::uint64_t available() const {
        return checked_count(ring_->tail.load(std::memory_order_acquire), head_);
    }

    // How many entries there have ever been, as the producer says.
    std::uint64_t written() const { return ring_->tail.load(std::memory_order_relaxed); }

    // Take the oldest entry; there must be one.
    Entry pop() {
        const Entry entry = ring_->entries[head_ % kRingCapacity];
        ring_->head.store(++head_, std::memory_order_release);
        return entry;
    }

    // Announce that the doorbell is about to be waited for; false if there is something to pop instead.
    bool fall_asleep() {
        return wfserve::fall_asleep(*asleep_,
                                    [this] { return ring_->tail.load(std::memory_order_relaxed) == head_; });
    }

    std::atomic<std::uint32_t>& asleep() { return *asleep_; }

  private:
    Ring* ring_;
    std::atomic<std::uint32_t>* asleep_;
    std::uint64_t head_;
};

// Whose turn it is, of several rings that one thread reads: each is passed over by no other twice.
class Turns {
  public:
    // Return the first of `count` that is `ready`, from the one behind the last on; `count` if none is.
    template <class Ready>
    std::size_t next(std::size_t count, Ready ready) {
        for (std::size_t step = 1; step <= count; ++step) {
            const std::size_t candidate = (last_ + step) % count;
            if (ready(candidate)) return last_ = candidate;
        }
        return count;
    }

  private:
    std::size_t last_ = 0;
};

}  // namespace wfserve
