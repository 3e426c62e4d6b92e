// Results fill lent memory from its start: each piece is aligned, but equal tensors lie one behind the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

#include "frame.hpp"

namespace wfserve {

class Filling {
  public:
    explicit Filling(std::uint64_t size) : size_(size) {}

    // Whether `nbytes` more fit, wherever the last piece ends.
    bool fits(std::uint64_t nbytes) const {
        const std::uint64_t start = aligned(end_);
        return start <= size_ && nbytes <= size_ - start;
    }

    // Take `nbytes`, of a frame if there is a header, and return where they begin; nothing if they do not
    // fit.
    std::optional<std::uint64_t> place(std::uint64_t nbytes, const FrameHeader* header = nullptr) {
        const bool is_row = header != nullptr && header->kind == kTensor;
        const bool goes_on = is_row && has_row_ && std::memcmp(header, &row_, sizeof row_) == 0;
        const std::uint64_t start = goes_on ? end_ : aligned(end_);
        if (start > size_ || nbytes > size_ - start) return std::nullopt;
        end_ = start + nbytes;
        has_row_ = is_row;
        if (is_row && !goes_on) row_ = *header;
        return start;
    }

  private:
    static constexpr std::uint64_t kAlignment = 64;
    static constexpr std::uint64_t aligned(std::uint64_t size) {
        return (size + kAlignment - 1) / kAlignment * kAlignment;
    }

    std::uint64_t size_;
    std::uint64_t end_ = 0;
    bool has_row_ = false;
    FrameHeader row_{};  // of the tensor that ends there
};

}  // namespace wfserve
