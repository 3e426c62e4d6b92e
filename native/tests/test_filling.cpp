// Whatever sizes are asked for, pieces lie behind each other within the memory, aligned or in a row.
#include <cstdint>
#include <random>
#include <vector>

#include "check.hpp"
#include "filling.hpp"

namespace wfserve::test {

namespace {

FrameHeader header_of(std::uint8_t kind, std::uint64_t length) {
    FrameHeader header{};
    header.kind = kind;
    header.length = length;
    return header;
}

void fill(std::mt19937_64& random) {
    std::vector<std::byte> memory(random() % 5000);
    Filling filling(memory.size());
    std::uint64_t end = 0;
    FrameHeader last{};
    for (int count = 0; count < 50; ++count) {
        const std::uint64_t wide = random() % 8 == 0 ? random() : random() % 3 * 40;
        const FrameHeader header = header_of(random() % 2 ? kTensor : std::uint8_t{1}, wide);
        const bool fits = filling.fits(wide);
        const auto start = filling.place(wide, random() % 8 == 0 ? nullptr : &header);
        CHECK(!fits || start);
        if (!start) continue;
        CHECK(*start >= end && *start <= memory.size() && wide <= memory.size() - *start);
        CHECK(*start % 64 == 0 || (*start == end && header.kind == kTensor && last.length == wide));
        for (std::uint64_t at = *start; at < *start + wide; ++at) memory[at] = std::byte{1};
        end = *start + wide;
        last = header;
    }
}

}  // namespace

TEST(pieces_lie_within_the_memory) {
    std::mt19937_64 random(7);
    for (int round = 0; round < 2000; ++round) fill(random);
}

}  // namespace wfserve::test
