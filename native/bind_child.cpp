// What a worker is told of a batch's items is read in one call: a line of Python for each costs microseconds.
#include <nanobind/nanobind.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string_view>

#include "bindings.hpp"
#include "frame.hpp"

namespace wfserve {

namespace {

using Header = std::array<char, sizeof(FrameHeader)>;
using Uuid = std::array<unsigned char, 16>;

// The integers of a body, front to back; wfserve/transport/message.py says in which order they come.
class Items {
  public:
    Items(std::string_view data, PyTypeObject* item, PyTypeObject* ref)
        : data_(data), item_type_(item), ref_type_(ref) {}

    nb::object read(std::uint64_t count) {
        check(count, sizeof(Uuid) + kRefBytes + sizeof(std::uint32_t));
        nb::object items = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(count)));
        if (!items.is_valid()) nb::raise_python_error();
        for (std::uint64_t number = 0; number < count; ++number) {
            PyTuple_SET_ITEM(items.ptr(), static_cast<Py_ssize_t>(number), item().release().ptr());
        }
        if (!data_.empty())
            throw std::invalid_argument("A message is followed by bytes that are not its own");
        return items;
    }

  private:
    // A header, and the descriptor's segment, offset and length.
    static constexpr std::size_t kRefBytes =
        sizeof(Header) + sizeof(std::uint32_t) + 2 * sizeof(std::uint64_t);

    // That `count` things of at least `least` bytes can still follow.
    void check(std::uint64_t count, std::size_t least) const {
        if (count > data_.size() / least) throw std::invalid_argument("A message is cut short");
    }

    template <class Field>
    Field take() {
        check(1, sizeof(Field));
        Field field;
        std::memcpy(&field, data_.data(), sizeof(Field));
        data_.remove_prefix(sizeof(Field));
        return field;
    }

    nb::object item() {
        nb::object id = text_of(take<Uuid>());
        nb::object headers = ref();
        const auto count = take<std::uint32_t>();
        check(count, sizeof(std::uint32_t) + kRefBytes);
        nb::object inputs = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(count)));
        if (!inputs.is_valid()) nb::raise_python_error();
        for (std::uint32_t number = 0; number < count; ++number) {
            const auto parent = take<std::uint32_t>();
            nb::object input = nb::make_tuple(parent, ref());
            PyTuple_SET_ITEM(inputs.ptr(), static_cast<Py_ssize_t>(number), input.release().ptr());
        }
        return make_tuple(item_type_, {std::move(id), std::move(headers), std::move(inputs)});
    }

    nb::object ref() {
        nb::object header = header_of(take<Header>());
        const auto segment = take<std::uint32_t>();
        const auto offset = take<std::uint64_t>();
        return make_tuple(ref_type_,
                          {std::move(header), make_descriptor(segment, offset, take<std::uint64_t>())});
    }

    // Headers of a batch are alike. One object for equal ones, whose hash is known then, as they are looked
    // up.
    nb::object header_of(const Header& header) {
        for (Known& known : known_) {
            if (known.object.is_valid() && known.header == header) return known.object;
        }
        Known& oldest = known_[next_++ % known_.size()];
        oldest = {header, nb::bytes(header.data(), header.size())};
        return oldest.object;
    }

    static nb::object text_of(const Uuid& uuid) {
        constexpr const char* digits = "0123456789abcdef";
        std::array<char, 36> text{};
        std::size_t at = 0;
        for (std::size_t number = 0; number < uuid.size(); ++number) {
            if (number == 4 || number == 6 || number == 8 || number == 10) text[at++] = '-';
            text[at++] = digits[uuid[number] >> 4];
            text[at++] = digits[uuid[number] & 15];
        }
        return nb::str(text.data(), text.size());
    }

    struct Known {
        Header header{};
        nb::object object;
    };

    std::string_view data_;
    PyTypeObject* item_type_;
    PyTypeObject* ref_type_;
    std::array<Known, 2> known_;  // the items' headers, and their inputs
    std::size_t next_ = 0;
};

PyTypeObject* tuple_type(const nb::type_object& type) {
    auto* found = reinterpret_cast<PyTypeObject*>(type.ptr());
    if (!PyType_IsSubtype(found, &PyTuple_Type)) throw nb::type_error("Items are made of named tuples");
    return found;
}

nb::object decode_items(const nb::bytes& data, std::size_t start, std::uint64_t count,
                        const nb::type_object& item, const nb::type_object& ref) {
    if (start > data.size()) throw std::invalid_argument("A message is cut short");
    const std::string_view whole(data.c_str(), data.size());
    return Items(whole.substr(start), tuple_type(item), tuple_type(ref)).read(count);
}

}  // namespace

void bind_child(nb::module_& module) {
    module.def(
        "decode_items", decode_items, nb::arg("data"), nb::arg("start"), nb::arg("count"), nb::arg("item"),
        nb::arg("ref"),
        nb::sig("def decode_items(data: bytes, start: int, count: int, "
                "item: type[wfserve.transport.message.CallItem], ref: type[wfserve.transport.message.Ref]) "
                "-> tuple[wfserve.transport.message.CallItem, ...]"),
        "Return the items of an encoded call, which begin at `start`, as named tuples.\n\n"
        "An item is made of its id, the ref of its headers, and pairs of an index and a ref; a ref\n"
        "of a frame header and a descriptor. Raises `ValueError` if the data are not exactly that.");
}

}  // namespace wfserve
