// What the server writes of a batch's items and reads of its results, each in one call for all of them.
#include <nanobind/nanobind.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string_view>
#include <tuple>
#include <vector>

#include "bindings.hpp"
#include "body.hpp"
#include "handles.hpp"

namespace wfserve {

namespace {

struct Place {
    std::uint32_t segment;
    std::uint64_t offset;
    std::uint64_t length;

    bool operator<(const Place& other) const {
        return std::tie(segment, offset, length) < std::tie(other.segment, other.offset, other.length);
    }
    bool contains(const Place& part) const {
        return segment == part.segment && offset <= part.offset && part.length <= length &&
               part.offset - offset <= length - part.length;
    }
};

Place place_of(const Handle& handle) {
    return {handle.segment(), handle.extent().offset, handle.extent().length};
}

Place place_of(nb::handle descriptor) {
    return {parse_u32(descriptor[0]), parse_u64(descriptor[1]), parse_u64(descriptor[2])};
}

// What a message says of a payload.
struct Part {
    nb::bytes header;
    Place place;
};

// Share a payload, which `held` has from then on. It may be any that keeps the contract.
Part hold(nb::handle payload, nb::list& held) {
    if (nb::isinstance<Payload>(payload)) {
        const Payload& known = *nb::inst_ptr<Payload>(payload);
        held.append(nb::cast(known.share()));
        return {known.header(), place_of(known)};
    }
    held.append(payload.attr("share")());
    return {nb::cast<nb::bytes>(payload.attr("header")), place_of(nb::object(payload.attr("descriptor")))};
}

struct Input {
    std::uint32_t parent;
    Part part;
};

struct Item {
    Uuid id;
    Part headers;
    std::vector<Input> inputs;
};

int digit_of(char character) {
    if (character >= '0' && character <= '9') return character - '0';
    if (character >= 'a' && character <= 'f') return character - 'a' + 10;
    if (character >= 'A' && character <= 'F') return character - 'A' + 10;
    return -1;
}

Uuid uuid_of(std::string_view text) {
    Uuid uuid{};
    std::size_t digits = 0;
    for (const char character : text) {
        if (character == '-') continue;
        const int digit = digit_of(character);
        if (digit < 0 || digits == 2 * uuid.size()) throw std::invalid_argument("A request id is no UUID");
        unsigned char& byte = uuid[digits++ / 2];
        byte = static_cast<unsigned char>(byte << 4 | digit);
    }
    if (digits != 2 * uuid.size()) throw std::invalid_argument("A request id is no UUID");
    return uuid;
}

std::string_view text_of(nb::handle text) {
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
    if (!data) nb::raise_python_error();
    return {data, static_cast<std::size_t>(size)};
}

Item item_of(nb::handle item, nb::list& inputs_held, nb::list& headers_held) {
    const nb::object id = item.attr("request_id");
    Item found{uuid_of(text_of(id)), hold(nb::object(item.attr("headers")), headers_held), {}};
    const nb::tuple inputs = nb::cast<nb::tuple>(item.attr("inputs"));
    for (nb::handle input : inputs) {
        found.inputs.push_back({parse_u32(input[0]), hold(nb::object(input[1]), inputs_held)});
    }
    return found;
}

// The order in which the inputs lie in memory; as it is where an item has several inputs, or none.
std::vector<std::uint32_t> order_of(const std::vector<Item>& items) {
    std::vector<std::uint32_t> order(items.size());
    std::iota(order.begin(), order.end(), 0U);
    const auto is_single = [](const Item& item) { return item.inputs.size() == 1; };
    if (!std::all_of(items.begin(), items.end(), is_single)) return order;
    const auto place = [&](std::uint32_t number) { return items[number].inputs.front().part.place; };
    std::stable_sort(order.begin(), order.end(),
                     [&](std::uint32_t one, std::uint32_t other) { return place(one) < place(other); });
    return order;
}

void put(Writing& body, const Part& part) {
    body.put_ref(part.header, part.place.segment, part.place.offset, part.place.length);
}

nb::object encode_items(const nb::sequence& items, nb::list inputs, nb::list headers) {
    std::vector<Item> found;
    found.reserve(nb::len(items));
    for (nb::handle item : items) found.push_back(item_of(item, inputs, headers));
    Writing body;
    nb::list order;
    for (const std::uint32_t number : order_of(found)) {
        const Item& item = found[number];
        order.append(number);
        body.put(item.id);
        put(body, item.headers);
        body.put(static_cast<std::uint32_t>(item.inputs.size()));
        for (const Input& input : item.inputs) {
            body.put(input.parent);
            put(body, input.part);
        }
    }
    return nb::make_tuple(body.bytes(), order);
}

nb::object decode_values(const nb::bytes& data, std::size_t start, std::uint64_t count, std::uint64_t longest,
                         const nb::type_object& type) {
    PyTypeObject* value = tuple_type(type);
    Body body(data, start);
    nb::list values;
    for (; count > 0 && body.peek() == kValue; --count) {
        body.take<std::uint8_t>();
        nb::object ref = body.ref();
        const auto size = body.take<std::uint32_t>();
        check_response(size, longest);
        values.append(make_tuple(value, {std::move(ref), body.raw(size)}));
    }
    return nb::make_tuple(values, data.size() - body.left());
}

nb::object decode_ran(const nb::bytes& data, std::size_t start, std::uint64_t count, std::uint64_t longest,
                      const nb::type_object& type) {
    PyTypeObject* ran = tuple_type(type);
    Body body(data, start);
    nb::list steps;
    for (; count > 0; --count) {
        const nb::int_ busy(body.take<std::uint64_t>());
        const nb::int_ items(body.take<std::uint32_t>());
        const nb::int_ copies(body.take<std::uint32_t>());
        const auto size = body.take<std::uint32_t>();
        if (size > longest) throw std::invalid_argument("The metrics of a batch are longer than their limit");
        steps.append(make_tuple(ran, {busy, items, body.raw(size), copies}));
    }
    return nb::make_tuple(steps, data.size() - body.left());
}

// A part of one of the handles, None if `place` lies in none of them; `make` is the method that makes it.
template <class Kind>
nb::object part_of(const nb::list& handles, const nb::bytes& header, const Place& place, const char* make) {
    for (nb::handle handle : handles) {
        const bool is_native = nb::isinstance<Kind>(handle);
        const Place whole = is_native ? place_of(*nb::inst_ptr<Kind>(handle))
                                      : place_of(nb::object(handle.attr("descriptor")));
        if (!whole.contains(place)) continue;
        if (is_native)
            return nb::cast(publish_at(*nb::inst_ptr<Kind>(handle), header, {place.offset, place.length}));
        return handle.attr(make)(header, place.offset - whole.offset, place.length);
    }
    return nb::none();
}

nb::object publish_part(nb::handle ref, const nb::list& loans, const nb::list& payloads) {
    const nb::bytes header = nb::cast<nb::bytes>(ref[0]);
    const Place place = place_of(nb::object(ref[1]));
    nb::object found = part_of<Loan>(loans, header, place, "publish");
    return found.is_none() ? part_of<Payload>(payloads, header, place, "part") : found;
}

nb::object publish_values(const nb::sequence& results, const nb::list& loans, const nb::list& payloads,
                          const nb::type_object& value, const nb::type_object& done) {
    PyTypeObject* made = tuple_type(done);
    nb::list published;
    for (nb::handle result : results) {
        if (!result.type().is(value)) break;
        nb::object payload = publish_part(nb::object(result[0]), loans, payloads);
        if (payload.is_none()) break;
        published.append(make_tuple(made, {std::move(payload), nb::object(result[1])}));
    }
    return published;
}

}  // namespace

void bind_server(nb::module_& module) {
    module.def(
        "encode_items", encode_items, nb::arg("items"), nb::arg("inputs"), nb::arg("headers"),
        nb::sig(
            "def encode_items(items: collections.abc.Sequence[wfserve.workers.base.Item], "
            "inputs: list[wfserve.transport.base.Payload], headers: list[wfserve.transport.base.Payload]) "
            "-> tuple[bytes, list[int]]"),
        "Return the items of a call, encoded in the order in which their inputs lie, and that order.\n\n"
        "Each payload is shared, and `inputs` or `headers` have the new handles, whatever is raised then:\n"
        "`ValueError` where an id is no UUID or a handle has been released.");
    module.def(
        "decode_values", decode_values, nb::arg("data"), nb::arg("start"), nb::arg("count"),
        nb::arg("longest"), nb::arg("value"),
        nb::sig("def decode_values(data: bytes, start: int, count: int, longest: int, "
                "value: type[wfserve.transport.message.Value]) "
                "-> tuple[list[wfserve.transport.message.Value], int]"),
        "Return the results of a reply, from `start` on, up to the first that is no value, and where it\n"
        "begins.\n\nRaises `ValueError` if the data are cut short or a response has more than `longest` "
        "bytes.");
    module.def("decode_ran", decode_ran, nb::arg("data"), nb::arg("start"), nb::arg("count"),
               nb::arg("longest"), nb::arg("ran"),
               nb::sig("def decode_ran(data: bytes, start: int, count: int, longest: int, "
                       "ran: type[wfserve.transport.message.Ran]) "
                       "-> tuple[list[wfserve.transport.message.Ran], int]"),
               "Return what a reply says of `count` steps, from `start` on, and where that ends.\n\n"
               "Raises `ValueError` if the data are cut short or metrics have more than `longest` bytes.");
    module.def(
        "publish_values", publish_values, nb::arg("results"), nb::arg("loans"), nb::arg("payloads"),
        nb::arg("value"), nb::arg("done"),
        nb::sig("def publish_values(results: collections.abc.Sequence[wfserve.transport.message.Result], "
                "loans: list[wfserve.transport.base.Loan], "
                "payloads: list[wfserve.transport.base.Payload], "
                "value: type[wfserve.transport.message.Value], "
                "done: type[wfserve.workers.base.Done]) -> list[wfserve.workers.base.Done]"),
        "Return the results of a reply, published as `publish_part` does each, up to the first that is no\n"
        "value or lies in nothing that was lent or given.");
    module.def(
        "publish_part", publish_part, nb::arg("ref"), nb::arg("loans"), nb::arg("payloads"),
        nb::sig("def publish_part(ref: wfserve.transport.base.Ref, "
                "loans: list[wfserve.transport.base.Loan], "
                "payloads: list[wfserve.transport.base.Payload]) -> wfserve.transport.base.Payload | None"),
        "Return what a ref names as a part of the first loan, else payload, that it lies in, else None.");
}

}  // namespace wfserve
