// The two ends share nothing but the memory between them, and what is pushed is seen whole.
#include <cstring>
#include <memory>
#include <random>
#include <thread>

#include "arena.hpp"
#include "check.hpp"
#include "ends.hpp"

namespace {

using namespace wfserve;
using namespace wfserve::test;

constexpr std::uint64_t kRounds = 30'000;
constexpr std::uint64_t kStop = ~std::uint64_t{0};

// Fill what each entry points at, in the mapping `data`, and say so, until told to stop.
void answer(RingPair& rings, int doorbell, std::byte* data) {
    Child end(rings, doorbell);
    for (Entry entry = end.receive(); entry.tag != kStop; entry = end.receive()) {
        std::memset(data + entry.offset, static_cast<int>(entry.tag % 256), entry.length);
        end.send(entry);
    }
}

class Lender {
  public:
    Lender(Arena& arena, RingPair& rings, int doorbell) : arena_(arena), server_(rings, doorbell) {}

    void run() {
        std::mt19937 random(9);
        while (answered_ < kRounds) {
            for (auto burst = 1 + random() % 20; burst > 0 && sent_ - answered_ < kRingCapacity; --burst) {
                lend(1 + random() % 500);
            }
            CHECK(server_.wait(kPatience * 1000));
            server_.drain([this](const Entry& entry) { take(entry); });
        }
        while (sent_ > answered_) {
            CHECK(server_.wait(kPatience * 1000));
            server_.drain([this](const Entry& entry) { take(entry); });
        }
        CHECK(server_.send({1, 0, kStop, 0, 0}));
    }

  private:
    void lend(std::uint64_t nbytes) {
        const Extent extent = arena_.loan(nbytes).value();
        CHECK(server_.send({1, 0, sent_++, extent.offset, extent.length}));
    }
    void take(const Entry& entry) {
        CHECK(entry.tag == answered_++);
        CHECK(arena_.data(entry.offset)[entry.length - 1] == static_cast<std::byte>(entry.tag % 256));
        arena_.release(entry.offset);
    }

    Arena& arena_;
    Server server_;
    std::uint64_t sent_ = 0;
    std::uint64_t answered_ = 0;
};

// As in two processes: each thread has mappings of its own, at other addresses.
TEST(two_threads_with_mappings_of_their_own) {
    const Pair pair;
    Arena arena(1 << 20, 1 << 18, 1 << 28);
    const Mapping memory = pair.map(), other = pair.map(), segment(arena.fd(), size_of(arena.fd()));
    std::thread child([&] { answer(rings_in(other), pair.doorbell.get(), segment.data()); });
    Lender(arena, rings_in(memory), pair.doorbell.get()).run();
    child.join();
    CHECK(arena.statistics().slots == 0);
}

// With one mapping the sanitizer knows the bytes of one thread for those of the other: here it sees whether
// pushing an entry publishes it, and what it points at.
TEST(two_threads_with_one_mapping) {
    const Pair pair;
    Arena arena(1 << 20, 1 << 18, 1 << 28);
    const Mapping memory = pair.map();
    std::thread child([&] { answer(rings_in(memory), pair.doorbell.get(), arena.data(0)); });
    Lender(arena, rings_in(memory), pair.doorbell.get()).run();
    child.join();
    CHECK(arena.statistics().slots == 0);
}

// Only that a place has been read says that it may be written to again.
TEST(a_full_ring_is_not_written_over) {
    const Pair pair;
    const Mapping memory = pair.map();
    std::thread child([&] {
        Child end(rings_in(memory), pair.doorbell.get());
        for (std::uint64_t tag = 0; tag < kRounds; ++tag) end.send({1, 0, tag, 0, 0});
    });
    Server server(rings_in(memory), pair.doorbell.get());
    for (std::uint64_t received = 0; received < kRounds;) {
        CHECK(server.wait(kPatience * 1000));
        server.drain([&](const Entry& entry) { CHECK(entry.tag == received++); });
    }
    child.join();
}

}  // namespace
