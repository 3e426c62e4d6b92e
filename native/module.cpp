// The module as Python sees it; the concepts are in the headers, each usable without Python.
#include <nanobind/nanobind.h>

#include <cerrno>
#include <limits>
#include <system_error>

#include "bindings.hpp"
#include "frame.hpp"
#include "watch.hpp"

namespace wfserve {

namespace {

PyTypeObject* descriptor_type = nullptr;
PyTypeObject* message_type = nullptr;
PyTypeObject* ref_type = nullptr;

nb::object number(std::uint64_t value) {
    return nb::steal(PyLong_FromUnsignedLongLong(value));
}

PyTypeObject* import_type(const nb::module_& module, const char* name) {
    return reinterpret_cast<PyTypeObject*>(nb::object(module.attr(name)).release().ptr());
}

void translate_system_error(const std::exception_ptr& error, void*) {
    try {
        std::rethrow_exception(error);
    } catch (const std::system_error& failure) {
        errno = failure.code().value();
        PyErr_SetFromErrno(PyExc_OSError);
    }
}

}  // namespace

std::uint64_t parse_u64(nb::handle value) {
    const unsigned long long parsed = PyLong_AsUnsignedLongLong(value.ptr());
    if (parsed == std::numeric_limits<unsigned long long>::max() && PyErr_Occurred())
        nb::raise_python_error();
    return parsed;
}

std::uint32_t parse_u32(nb::handle value) {
    const std::uint64_t parsed = parse_u64(value);
    if (parsed > std::numeric_limits<std::uint32_t>::max()) throw std::overflow_error("A field has 32 bits");
    return static_cast<std::uint32_t>(parsed);
}

PyTypeObject* tuple_type(const nb::type_object& type) {
    auto* found = reinterpret_cast<PyTypeObject*>(type.ptr());
    if (!PyType_IsSubtype(found, &PyTuple_Type)) throw nb::type_error("Items are made of named tuples");
    return found;
}

nb::object make_tuple(PyTypeObject* type, std::initializer_list<nb::object> fields) {
    nb::object made = nb::steal(type->tp_alloc(type, static_cast<Py_ssize_t>(fields.size())));
    if (!made.is_valid()) nb::raise_python_error();
    Py_ssize_t position = 0;
    for (const nb::object& field : fields) {
        PyTuple_SET_ITEM(made.ptr(), position++, nb::object(field).release().ptr());
    }
    return made;
}

void import_contract() {
    const nb::module_ base = nb::module_::import_("wfserve.transport.base");
    descriptor_type = import_type(base, "Descriptor");
    message_type = import_type(base, "Message");
    ref_type = import_type(base, "Ref");
}

nb::object make_descriptor(std::uint32_t segment, std::uint64_t offset, std::uint64_t length) {
    return make_tuple(descriptor_type, {number(segment), number(offset), number(length)});
}

nb::object make_ref(const nb::bytes& header, nb::object place) {
    return make_tuple(ref_type, {header, std::move(place)});
}

nb::object make_message(const Entry& entry) {
    return make_tuple(message_type, {number(entry.kind), number(entry.tag),
                                     make_descriptor(entry.segment, entry.offset, entry.length)});
}

Entry parse_message(nb::handle message) {
    const nb::handle descriptor = message[2];
    Entry entry{};
    entry.kind = parse_u32(message[0]);
    entry.tag = parse_u64(message[1]);
    entry.segment = parse_u32(descriptor[0]);
    entry.offset = parse_u64(descriptor[1]);
    entry.length = parse_u64(descriptor[2]);
    return entry;
}

}  // namespace wfserve

NB_MODULE(_native, module) {
    using namespace wfserve;
    module.doc() = "Shared memory between the server and its workers: arena, rings, doorbells, batches.";
    // A handler may look at shared memory until its interpreter ends: not a leak to report.
    nb::set_leak_warnings(false);
    nb::register_exception_translator(translate_system_error);
    import_contract();
    bind_arena(module);
    bind_rings(module);
    bind_gather(module);
    bind_child(module);
    bind_memory(module);
    bind_server(module);
    module.attr("FRAME_HEADER_SIZE") = sizeof(FrameHeader);
    module.attr("RING_CAPACITY") = kRingCapacity;
    module.def(
        "watch_parent", &watch_parent, nb::arg("pidfd"),
        "End this process, and its group if it leads one, as soon as the process behind `pidfd` is gone.\n\n"
        "Works while the GIL is held. Raises `OSError` if `pidfd` is not open.");
}
