// Rows from anywhere arrive in order, whether they are neighbours, in their place already, or neither.
#include <algorithm>
#include <random>

#include "check.hpp"
#include "gather.hpp"

namespace {

using wfserve::Rows;

constexpr std::size_t kMostRows = 12;

std::byte filling(std::size_t at) {
    return static_cast<std::byte>(at * 2654435761u >> 11);
}

// The destination in the middle of memory that rows may be taken from on both sides, or in place.
struct Memory {
    explicit Memory(std::size_t row_size) : size(row_size), bytes(3 * kMostRows * row_size) {
        for (std::size_t at = 0; at < bytes.size(); ++at) bytes[at] = filling(at);
    }
    std::byte* destination() { return bytes.data() + kMostRows * size; }

    std::size_t size;
    std::vector<std::byte> bytes;
};

Rows some_rows(Memory& memory, std::mt19937& random) {
    Rows rows;
    rows.size = memory.size;
    const std::size_t count = random() % (kMostRows + 1);
    for (std::size_t row = 0; row < count; ++row) {
        const std::size_t outside = random() % kMostRows + (random() % 2) * 2 * kMostRows;
        const bool follows = row > 0 && random() % 2 && outside % kMostRows + 1 < kMostRows;
        if (random() % 4 == 0)
            rows.starts.push_back(memory.destination() + row * memory.size);
        else
            rows.starts.push_back(memory.bytes.data() + (follows ? outside + 1 : outside) * memory.size);
    }
    return rows;
}

TEST(any_rows_arrive_in_order) {
    std::mt19937 random(7);
    for (int round = 0; round < 3000; ++round) {
        Memory memory(random() % 3 == 0 ? random() % 3 : random() % 300);
        const Rows rows = some_rows(memory, random);
        std::vector<std::byte> expected;
        for (const std::byte* start : rows.starts) expected.insert(expected.end(), start, start + rows.size);
        const std::vector<std::byte> before = memory.bytes;
        CHECK(rows.may_gather(memory.destination()));
        rows.gather(memory.destination());
        CHECK(std::equal(expected.begin(), expected.end(), memory.destination()));
        std::copy(before.begin() + static_cast<std::ptrdiff_t>(kMostRows * rows.size),
                  before.begin() + static_cast<std::ptrdiff_t>(kMostRows * rows.size + expected.size()),
                  memory.destination());
        CHECK(memory.bytes == before);  // nothing else was written
    }
}

TEST(neighbours_are_known) {
    const std::byte memory[64]{};
    CHECK((Rows{{}, 8}.adjacent()));
    CHECK((Rows{{memory}, 8}.adjacent()));
    CHECK((Rows{{memory, memory + 8, memory + 16}, 8}.adjacent()));
    CHECK(!(Rows{{memory, memory + 8, memory + 17}, 8}.adjacent()));
    CHECK(!(Rows{{memory + 8, memory}, 8}.adjacent()));
    CHECK(!(Rows{{memory, memory + 8, memory}, 8}.adjacent()));
}

TEST(a_row_elsewhere_in_the_destination_is_refused) {
    const std::byte memory[64]{};
    const std::byte* destination = memory + 16;  // two rows of eight bytes
    CHECK((Rows{{destination, destination + 8}, 8}.may_gather(destination)));
    CHECK((Rows{{destination - 8, destination + 16}, 8}.may_gather(destination)));
    for (const std::byte* start : {destination - 7, destination + 1, destination + 8, destination + 15}) {
        CHECK(!(Rows{{start, memory}, 8}.may_gather(destination)));
    }
}

}  // namespace
