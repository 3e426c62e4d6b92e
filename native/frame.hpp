// A frame header is these 96 bytes; wfserve/transport/frame.py packs and checks them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace wfserve {

struct FrameHeader {
    std::uint8_t version;
    std::uint8_t kind;
    std::uint8_t dtype;
    std::uint8_t rank;
    std::uint32_t flags;
    std::uint64_t length;
    std::int64_t shape[10];
};

inline constexpr std::uint8_t kTensor = 4;  // the kind whose rows may be neighbours

static_assert(sizeof(FrameHeader) == 96);
static_assert(offsetof(FrameHeader, version) == 0);
static_assert(offsetof(FrameHeader, kind) == 1);
static_assert(offsetof(FrameHeader, dtype) == 2);
static_assert(offsetof(FrameHeader, rank) == 3);
static_assert(offsetof(FrameHeader, flags) == 4);
static_assert(offsetof(FrameHeader, length) == 8);
static_assert(offsetof(FrameHeader, shape) == 16);

}  // namespace wfserve
