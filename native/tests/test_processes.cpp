// A child may be killed at any instruction, or write what it likes: its server loses nothing, and never
// crashes.
#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <random>

#include "arena.hpp"
#include "check.hpp"
#include "ends.hpp"

namespace {

using namespace wfserve;
using namespace wfserve::test;
using Clock = std::chrono::steady_clock;

// A child process that runs until it is killed.
class Process {
  public:
    template <class Run>
    explicit Process(Run run) : pid_(::fork()) {
        CHECK(pid_ >= 0);
        if (pid_ != 0) return;
        run();
        ::_exit(0);
    }
    Process(const Process&) = delete;
    ~Process() {
        int status = 0;
        ::kill(pid_, SIGKILL);
        CHECK(::waitpid(pid_, &status, 0) == pid_);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);  // no check of its own has failed
    }

  private:
    pid_t pid_;
};

std::size_t open_descriptors() {
    std::size_t count = 0;
    DIR* directory = ::opendir("/proc/self/fd");
    while (::readdir(directory)) ++count;
    ::closedir(directory);
    return count;
}

Entry entry(std::uint64_t tag) {
    return {1, 2, tag, ~tag, tag * 3};
}

bool same(const Entry& one, const Entry& other) {
    return one.kind == other.kind && one.segment == other.segment && one.tag == other.tag &&
           one.offset == other.offset && one.length == other.length;
}

// One end falls asleep at the very moment when the other one sends, over and over.
TEST(no_doorbell_is_lost) {
    const Pair pair;
    const Mapping memory = pair.map();
    const Process child([&] {
        const Mapping own = pair.map();
        Child end(rings_in(own), pair.doorbell.get(), false);
        for (std::minstd_rand random(13);;) {
            end.send(end.receive());
            for (auto moments = random() % 40; moments > 0; --moments) relax();
        }
    });
    Server server(rings_in(memory), pair.doorbell.get());
    for (std::uint64_t round = 0; round < 300'000; ++round) {
        CHECK(server.send(entry(round)));
        server.wait_awake();
        server.drain([&](const Entry& answer) { CHECK(same(answer, entry(round))); });
    }
}

// A child of two servers sleeps on the word of its first rings: whichever of them sends wakes it, for any
// order in which they do.
TEST(no_doorbell_of_several_rings_is_lost) {
    const Pair pairs[2];
    const Mapping memories[2] = {pairs[0].map(), pairs[1].map()};
    auto& asleep = rings_in(memories[0]).to_child.asleep;
    const Process child([&] {
        Consumer in[2] = {Consumer(rings_in(memories[0]).to_child, asleep),
                          Consumer(rings_in(memories[1]).to_child, asleep)};
        Producer out[2] = {Producer(rings_in(memories[0]).to_server),
                           Producer(rings_in(memories[1]).to_server)};
        Turns turns;
        const auto next = [&] {
            return turns.next(2, [&](std::size_t at) { return in[at].available() != 0; });
        };
        for (std::minstd_rand random(17);;) {
            std::size_t at = 2;
            while ((at = next()) == 2) {
                const auto empty = [&] { return in[0].available() + in[1].available() == 0; };
                if (fall_asleep(asleep, empty)) wait_futex(asleep, 1, timespec{kPatience, 0});
            }
            CHECK(out[at].push(in[at].pop()));
            for (auto moments = random() % 40; moments > 0; --moments) relax();
        }
    });
    Producer out[2] = {Producer(rings_in(memories[0]).to_child, asleep),
                       Producer(rings_in(memories[1]).to_child, asleep)};
    Consumer in[2] = {Consumer(rings_in(memories[0]).to_server), Consumer(rings_in(memories[1]).to_server)};
    std::minstd_rand random(19);
    for (std::uint64_t round = 0; round < 200'000; ++round) {
        const auto began = Clock::now();
        const std::size_t at = random() % 2;
        CHECK(out[at].push(entry(round)));
        if (out[at].must_wake()) wake_futex(asleep);
        while (in[at].available() == 0) {
            CHECK(Clock::now() - began < std::chrono::seconds(kPatience / 2));
            relax();
        }
        CHECK(same(in[at].pop(), entry(round)));
    }
}

TEST(rings_take_turns) {
    Turns turns;
    const auto always = [](std::size_t) { return true; };
    for (const std::size_t expected : {1u, 2u, 0u, 1u, 2u, 0u}) CHECK(turns.next(3, always) == expected);
    CHECK(turns.next(3, [](std::size_t at) { return at != 1; }) == 2);
    CHECK(turns.next(3, [](std::size_t) { return false; }) == 3);
    CHECK(turns.next(2, always) == 1);  // one has been removed
}

// Whoever goes on with rings that a process has left behind goes on where that was.
TEST(rings_are_taken_over) {
    const Pair pair;
    const Mapping memory = pair.map();
    RingPair& rings = rings_in(memory);
    Consumer reader(rings.to_child);
    {
        Producer gone(rings.to_child);
        for (std::uint64_t tag = 0; tag < kRingCapacity + 9; ++tag) {
            CHECK(gone.push(entry(tag)));
            if (tag < kRingCapacity) CHECK(same(reader.pop(), entry(tag)));
        }
    }
    Producer heir(rings.to_child);
    CHECK(heir.push(entry(kRingCapacity + 9)));
    CHECK(reader.available() == 10 && reader.written() == kRingCapacity + 10);
    for (std::uint64_t tag = kRingCapacity; tag < kRingCapacity + 10; ++tag)
        CHECK(same(reader.pop(), entry(tag)));
}

TEST(bursts_of_any_length_cross_in_order) {
    const Pair pair;
    const Mapping memory = pair.map();
    const Process child([&] {
        const Mapping own = pair.map();
        Child end(rings_in(own), pair.doorbell.get());
        for (;;) end.send(end.receive());
    });
    Server server(rings_in(memory), pair.doorbell.get());
    std::mt19937 random(3);
    std::uint64_t sent = 0, answered = 0;
    while (answered < 200'000) {
        for (auto burst = 1 + random() % kRingCapacity; burst > 0 && server.send(entry(sent)); --burst)
            ++sent;
        CHECK(server.wait(kPatience * 1000));
        server.drain([&](const Entry& answer) { CHECK(same(answer, entry(answered++))); });
    }
}

// A child that fills every extent it gets with the entry's tag, and says so.
void fill_extents(const Pair& pair, int segment) {
    const Mapping memory(segment, size_of(segment)), rings = pair.map();
    Child end(rings_in(rings), pair.doorbell.get());
    for (;;) {
        const Entry entry = end.receive();
        auto* words = reinterpret_cast<std::uint64_t*>(memory.data() + entry.offset);
        std::fill_n(words, entry.length / sizeof entry.tag, entry.tag);
        end.send(entry);
    }
}

// Lends to one child until that is killed, and takes everything back.
class Round {
  public:
    Round(std::shared_ptr<Arena> arena, std::mt19937& random)
        : arena_(std::move(arena)), random_(random), memory_(pair_.map()) {}

    std::size_t run() {
        {
            const Process child([this] { fill_extents(pair_, arena_->fd()); });
            const auto end = Clock::now() + std::chrono::microseconds(random_() % 3000);
            while (Clock::now() < end) exchange();
        }
        server_.drain([this](const Entry& answer) { take(answer); });  // its last words
        return answered_;
    }

  private:
    void exchange() {
        for (auto burst = random_() % 40; burst > 0 && lent_.size() < kRingCapacity; --burst) lend();
        if (server_.wait(1)) server_.drain([this](const Entry& answer) { take(answer); });
    }
    void lend() {
        const auto extent = arena_->loan(1 + random_() % 20'000);
        if (!extent) return;
        CHECK(server_.send({1, 0, next_tag_, extent->offset, extent->length}));
        lent_.emplace(next_tag_++, std::make_pair(Hold(arena_, extent->offset), *extent));
    }
    // What the child says it has written is there, whole: said and written in this order.
    void take(const Entry& answer) {
        const auto found = lent_.find(answer.tag);
        CHECK(found != lent_.end());
        const auto& [hold, extent] = found->second;
        const auto* words = reinterpret_cast<const std::uint64_t*>(hold.data(extent.offset));
        CHECK(std::all_of(words, words + extent.length / sizeof answer.tag,
                          [&](std::uint64_t word) { return word == answer.tag; }));
        lent_.erase(found);
        ++answered_;
    }

    std::shared_ptr<Arena> arena_;
    std::mt19937& random_;
    const Pair pair_;
    const Mapping memory_;
    Server server_{rings_in(memory_), pair_.doorbell.get()};
    std::map<std::uint64_t, std::pair<Hold, Extent>> lent_;
    std::uint64_t next_tag_ = 1;
    std::size_t answered_ = 0;
};

TEST(a_child_killed_at_any_moment_leaves_nothing) {
    const std::size_t descriptors = open_descriptors();
    {
        const auto arena = std::make_shared<Arena>(4 << 20, 1 << 20, 1 << 28);
        std::mt19937 random(std::random_device{}());  // moments do not repeat, whatever the seed
        std::size_t answered = 0;
        for (int round = 0; round < 500; ++round) {
            answered += Round(arena, random).run();
            CHECK(arena->statistics().slots == 0 && arena->statistics().loaned_bytes == 0);
        }
        CHECK(answered > 1000);
        for (int trim = 0; trim < 2; ++trim) {
            while (arena->trim(UINT64_MAX)) {
            }
        }
        CHECK(arena->statistics().resident_bytes == 0);
    }
    CHECK(open_descriptors() == descriptors);
}

// Write anything anywhere in the rings, over and over: wild words, and some that may pass for indices.
void scribble(const Mapping& memory) {
    std::mt19937_64 random(5);
    auto* words = reinterpret_cast<volatile std::uint64_t*>(memory.data());
    for (;;) {
        const std::uint64_t place = random() % (sizeof(RingPair) / sizeof *words);
        words[random() % 4 ? place : place / 8 * 8] = random() % 2 ? random() : random() % 600;
        auto& ring = random() % 2 ? rings_in(memory).to_server : rings_in(memory).to_child;
        (random() % 2 ? ring.tail : ring.head).store(random() % 600);
    }
}

// Use both rings once, as a server does; whether they were found to be corrupt.
bool notices(Server& server, std::uint64_t& drained) {
    try {
        drained += server.drain([](const Entry&) {});
        server.send({});
        server.wait(0);
        return false;
    } catch (const CorruptRing&) {
        return true;
    }
}

TEST(garbage_in_the_rings_is_noticed_or_harmless) {
    const Pair pair;
    const Mapping memory = pair.map();
    const Process child([&] { scribble(pair.map()); });
    Server server(rings_in(memory), pair.doorbell.get());
    std::uint64_t noticed = 0, drained = 0;
    for (const auto end = Clock::now() + std::chrono::seconds(3); Clock::now() < end;) {
        noticed += notices(server, drained);
    }
    CHECK(noticed > 0 && drained > 0);
}

}  // namespace
