// A body is read from a copy, front to back; wfserve/transport/message.py says what comes in which order.
#pragma once

#include <nanobind/nanobind.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>

#include "bindings.hpp"
#include "frame.hpp"

namespace wfserve {

using RawHeader = std::array<char, sizeof(FrameHeader)>;
using Uuid = std::array<unsigned char, 16>;

// A header, and the descriptor's segment, offset and length.
inline constexpr std::size_t kRefBytes =
    sizeof(RawHeader) + sizeof(std::uint32_t) + 2 * sizeof(std::uint64_t);

class Body {
  public:
    Body(const nb::bytes& data, std::size_t start) : data_(data.c_str(), data.size()) {
        check(start, 1);
        data_.remove_prefix(start);
    }

    std::size_t left() const { return data_.size(); }

    // That `count` things of at least `least` bytes can still follow.
    void check(std::uint64_t count, std::size_t least) const {
        if (count > data_.size() / least) throw std::invalid_argument("A message is cut short");
    }

    std::uint8_t peek() const {
        check(1, 1);
        return static_cast<std::uint8_t>(data_.front());
    }

    template <class Field>
    Field take() {
        check(1, sizeof(Field));
        Field field;
        std::memcpy(&field, data_.data(), sizeof(Field));
        data_.remove_prefix(sizeof(Field));
        return field;
    }

    nb::bytes raw(std::size_t size) {
        check(size, 1);
        nb::bytes found(data_.data(), size);
        data_.remove_prefix(size);
        return found;
    }

    nb::object ref() {
        nb::bytes header = header_of(take<RawHeader>());
        const auto segment = take<std::uint32_t>();
        const auto offset = take<std::uint64_t>();
        return make_ref(header, make_descriptor(segment, offset, take<std::uint64_t>()));
    }

  private:
    // Headers of a batch are alike: one object for equal ones, whose hash is known then, as they are looked
    // up.
    nb::bytes header_of(const RawHeader& header) {
        for (Known& known : known_) {
            if (known.object.is_valid() && known.header == header) return nb::borrow<nb::bytes>(known.object);
        }
        Known& oldest = known_[next_++ % known_.size()];
        oldest = {header, nb::bytes(header.data(), header.size())};
        return nb::borrow<nb::bytes>(oldest.object);
    }

    struct Known {
        RawHeader header{};
        nb::object object;
    };

    std::string_view data_;
    std::array<Known, 2> known_;  // the items' headers, and their inputs
    std::size_t next_ = 0;
};

// The bytes of a body that is being written.
class Writing {
  public:
    template <class Field>
    void put(const Field& field) {
        data_.append(reinterpret_cast<const char*>(&field), sizeof(Field));
    }
    void put(std::string_view data) { data_.append(data); }
    nb::bytes bytes() const { return nb::bytes(data_.data(), data_.size()); }

    // A ref, as `Body::ref` reads it.
    void put_ref(const nb::bytes& header, std::uint32_t segment, std::uint64_t offset, std::uint64_t length) {
        if (header.size() != sizeof(RawHeader)) throw std::invalid_argument("A frame header has 96 bytes");
        put(std::string_view(header.c_str(), header.size()));
        put(segment);
        put(offset);
        put(length);
    }

  private:
    std::string data_;
};

inline void check_response(std::size_t size, std::uint64_t longest) {
    if (size > longest) throw std::invalid_argument("What a handler sets on a response is limited");
}

inline constexpr std::uint8_t kValue = 1;  // the tag of a result that is a value

}  // namespace wfserve
