// Whatever is lent and given back in whatever order: slots never overlap, bytes stay, the limit holds.
#include <cstring>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "arena.hpp"
#include "check.hpp"

namespace {

using wfserve::Arena;
using wfserve::Extent;
using wfserve::Hold;

constexpr std::uint64_t kLimit = 1 << 20;
constexpr std::uint64_t kReservation = 1 << 28;

std::shared_ptr<Arena> make_arena() {
    return std::make_shared<Arena>(kLimit, kLimit / 4, kReservation);
}

struct Held {
    Hold hold;
    Extent extent;
    std::byte filling;

    void check() const {
        const std::byte* data = hold.data(extent.offset);
        for (std::uint64_t at = 0; at < extent.length; ++at) CHECK(data[at] == filling);
    }
};

// Lends, shares, gives back and trims at random, and knows what each slot must hold.
class User {
  public:
    void step() {
        const auto kind = random_() % 16;
        if (held_.empty() || kind < 7)
            lend();
        else if (kind < 8)
            held_.push_back(std::make_unique<Held>(*held_[any()]));
        else if (kind < 15)
            give_back();
        else
            arena_->trim(random_() % kLimit);
        CHECK(arena_->statistics().loaned_bytes <= kLimit);
    }
    void give_back() {
        std::swap(held_[any()], held_.back());
        held_.back()->check();
        held_.pop_back();
    }
    bool holds_something() const { return !held_.empty(); }
    Arena& arena() { return *arena_; }

  private:
    std::size_t any() { return random_() % held_.size(); }

    void lend() {
        const std::uint64_t wanted = random_() % 2 ? random_() % 300 : random_() % 60'000;
        const auto extent = arena_->loan(wanted);
        if (!extent) return;
        CHECK(extent->length >= wanted && extent->offset % 64 == 0);
        const auto filling = static_cast<std::byte>(random_() % 256);
        std::memset(arena_->data(extent->offset), static_cast<int>(filling), extent->length);
        held_.push_back(std::make_unique<Held>(Held{Hold(arena_, extent->offset), *extent, filling}));
    }

    std::shared_ptr<Arena> arena_ = make_arena();
    std::vector<std::unique_ptr<Held>> held_;
    std::mt19937 random_{11};
};

TEST(slots_keep_their_bytes_and_all_come_back) {
    User user;
    for (int step = 0; step < 20'000; ++step) user.step();
    while (user.holds_something()) user.give_back();
    for (int round = 0; round < 2; ++round) {
        while (user.arena().trim(kLimit)) {
        }
    }
    const auto left = user.arena().statistics();
    CHECK(left.slots == 0 && left.loaned_bytes == 0 && left.resident_bytes == 0);
}

TEST(a_slot_outlives_the_arena_and_takes_the_segment_along) {
    std::shared_ptr<Arena> arena = make_arena();
    const Extent extent = arena->loan(100).value();
    Held held{Hold(arena, extent.offset), extent, std::byte{5}};
    std::memset(arena->data(extent.offset), 5, extent.length);
    arena->close();
    CHECK(!arena->loan(1) && arena->fd() >= 0);
    held.check();
    {
        const Held last = std::move(held);
    }
    CHECK(arena->fd() == -1);
}

}  // namespace
