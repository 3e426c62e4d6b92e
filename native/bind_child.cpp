// What a worker is told of a batch's items is read in one call: a line of Python for each costs microseconds.
#include <nanobind/nanobind.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string_view>

#include "bindings.hpp"
#include "body.hpp"

namespace wfserve {

namespace {

class Items {
  public:
    Items(const nb::bytes& data, std::size_t start, PyTypeObject* item)
        : body_(data, start), item_type_(item) {}

    nb::object read(std::uint64_t count) {
        body_.check(count, sizeof(Uuid) + kRefBytes + sizeof(std::uint32_t));
        nb::object items = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(count)));
        if (!items.is_valid()) nb::raise_python_error();
        for (std::uint64_t number = 0; number < count; ++number) {
            PyTuple_SET_ITEM(items.ptr(), static_cast<Py_ssize_t>(number), item().release().ptr());
        }
        if (body_.left() > 0)
            throw std::invalid_argument("A message is followed by bytes that are not its own");
        return items;
    }

  private:
    nb::object item() {
        nb::object id = text_of(body_.take<Uuid>());
        nb::object headers = body_.ref();
        const auto count = body_.take<std::uint32_t>();
        body_.check(count, sizeof(std::uint32_t) + kRefBytes);
        nb::object inputs = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(count)));
        if (!inputs.is_valid()) nb::raise_python_error();
        for (std::uint32_t number = 0; number < count; ++number) {
            const auto parent = body_.take<std::uint32_t>();
            nb::object input = nb::make_tuple(parent, body_.ref());
            PyTuple_SET_ITEM(inputs.ptr(), static_cast<Py_ssize_t>(number), input.release().ptr());
        }
        return make_tuple(item_type_, {std::move(id), std::move(headers), std::move(inputs)});
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

    Body body_;
    PyTypeObject* item_type_;
};

nb::object decode_items(const nb::bytes& data, std::size_t start, std::uint64_t count,
                        const nb::type_object& item) {
    return Items(data, start, tuple_type(item)).read(count);
}

void put_ref(Writing& body, nb::handle ref) {
    const nb::object place = ref[1];
    body.put_ref(nb::cast<nb::bytes>(nb::object(ref[0])), parse_u32(place[0]), parse_u64(place[1]),
                 parse_u64(place[2]));
}

nb::bytes encode_passed(const nb::sequence& passed) {
    Writing body;
    body.put(static_cast<std::uint32_t>(nb::len(passed)));
    for (nb::handle each : passed) {
        body.put(parse_u32(nb::object(each[0])));
        put_ref(body, nb::object(each[1]));
    }
    return body.bytes();
}

nb::object encode_values(const nb::sequence& results, std::uint64_t longest, const nb::type_object& value) {
    Writing body;
    std::size_t count = 0;
    for (nb::handle result : results) {
        if (reinterpret_cast<PyObject*>(Py_TYPE(result.ptr())) != value.ptr()) break;
        const nb::bytes response = nb::cast<nb::bytes>(result[1]);
        check_response(response.size(), longest);
        body.put(kValue);
        put_ref(body, nb::object(result[0]));
        body.put(static_cast<std::uint32_t>(response.size()));
        body.put(std::string_view(response.c_str(), response.size()));
        ++count;
    }
    return nb::make_tuple(body.bytes(), count);
}

}  // namespace

void bind_child(nb::module_& module) {
    module.def("encode_passed", encode_passed, nb::arg("passed"),
               nb::sig("def encode_passed("
                       "passed: collections.abc.Sequence[tuple[int, wfserve.transport.base.Ref]]) -> bytes"),
               "Return which items of a call have reached a step, and its input of each, encoded.");
    module.def(
        "encode_values", encode_values, nb::arg("results"), nb::arg("longest"), nb::arg("value"),
        nb::sig("def encode_values(results: collections.abc.Sequence[wfserve.transport.message.Result], "
                "longest: int, value: type[wfserve.transport.message.Value]) -> tuple[bytes, int]"),
        "Return the results of a reply up to the first that is no value, encoded, and how many those are.\n\n"
        "Raises `ValueError` if a response has more than `longest` bytes.");
    module.def("decode_items", decode_items, nb::arg("data"), nb::arg("start"), nb::arg("count"),
               nb::arg("item"),
               nb::sig("def decode_items(data: bytes, start: int, count: int, "
                       "item: type[wfserve.transport.message.CallItem]) "
                       "-> tuple[wfserve.transport.message.CallItem, ...]"),
               "Return the items of an encoded call, which begin at `start`, as named tuples.\n\n"
               "An item is made of its id, the ref of its headers, and pairs of an index and a ref; a ref\n"
               "of a frame header and a descriptor. Raises `ValueError` if the data are not exactly that.");
}

}  // namespace wfserve
