// A handle holds its slot until it is released; what may be done with the bytes is its type.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <utility>

#include "arena.hpp"
#include "bindings.hpp"
#include "frame.hpp"

namespace wfserve {

[[noreturn]] inline void throw_released() {
    throw std::invalid_argument("The handle has been released");
}

// `offset` and `length` if that part lies within `size` bytes. They may come from a child, as any integer.
inline Extent checked_part(nb::int_ offset, nb::int_ length, std::uint64_t size) {
    const unsigned long long start = PyLong_AsUnsignedLongLong(offset.ptr());
    const unsigned long long count = PyLong_AsUnsignedLongLong(length.ptr());
    const bool outside = PyErr_Occurred() || start > size || count > size - start;
    PyErr_Clear();
    if (outside) throw std::invalid_argument("The part does not lie within the memory");
    return {start, count};
}

// A handle on a part of a slot, until it is released. Loans and payloads differ in what may be done with it.
class Handle {
  public:
    Handle(Hold hold, std::uint32_t segment, Extent extent)
        : hold_(std::move(hold)), segment_(segment), extent_(extent) {}

    const Hold& hold() const {
        if (!hold_) throw_released();
        return *hold_;
    }
    const Hold* hold_if_any() const { return hold_ ? &*hold_ : nullptr; }
    std::uint32_t segment() const { return segment_; }
    const Extent& extent() const { return extent_; }
    nb::object descriptor() const { return make_descriptor(segment_, extent_.offset, extent_.length); }
    void release() { hold_.reset(); }

  private:
    std::optional<Hold> hold_;
    std::uint32_t segment_;
    Extent extent_;
};

class Payload : public Handle {
  public:
    Payload(Hold hold, std::uint32_t segment, Extent extent, nb::bytes header)
        : Handle(std::move(hold), segment, extent), header_(std::move(header)) {}

    Payload share() const { return Payload(hold(), segment(), extent(), header_); }
    nb::bytes header() const { return header_; }

  private:
    nb::bytes header_;
};

class Loan : public Handle {
  public:
    using Handle::Handle;
};

inline void check_header(const nb::bytes& header) {
    if (header.size() != sizeof(FrameHeader)) throw std::invalid_argument("A frame header has 96 bytes");
}

// One more handle on the slot, for a part of what `self` is a handle on, which lies within that.
inline Payload publish_at(const Handle& self, nb::bytes header, Extent part) {
    check_header(header);
    return Payload(self.hold(), self.segment(), part, std::move(header));
}

// The same, if it does; `offset` is the handle's own.
template <class Kind>
Payload publish(const Kind& self, nb::bytes header, nb::int_ offset, nb::int_ length) {
    const Extent& whole = self.extent();
    const Extent part = checked_part(std::move(offset), std::move(length), whole.length);
    return publish_at(self, std::move(header), {whole.offset + part.offset, part.length});
}

}  // namespace wfserve
