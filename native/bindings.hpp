// Python's named tuples are made, and its buffers held, here and nowhere else in native code.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <utility>

#include "ring.hpp"

namespace wfserve {

namespace nb = nanobind;

// The bytes of a Python object, held until it goes.
class Buffer {
  public:
    Buffer(nb::handle exporter, int flags) {
        if (PyObject_GetBuffer(exporter.ptr(), &view_, flags) != 0) nb::raise_python_error();
    }
    Buffer(Buffer&& other) noexcept : view_(std::exchange(other.view_, Py_buffer{})) {}
    Buffer& operator=(Buffer&&) = delete;
    ~Buffer() { PyBuffer_Release(&view_); }

    std::byte* data() const { return static_cast<std::byte*>(view_.buf); }
    std::size_t size() const { return static_cast<std::size_t>(view_.len); }

  private:
    Py_buffer view_{};
};

// Import what `wfserve.transport.base` defines; called once, when the module is initialized.
void import_contract();

// Do what `NamedTuple._make` does, without its Python frame; `type` is a tuple's without fields of its own.
nb::object make_tuple(PyTypeObject* type, std::initializer_list<nb::object> fields);
// `type` as make_tuple wants it; a TypeError if it is none.
PyTypeObject* tuple_type(const nb::type_object& type);
nb::object make_descriptor(std::uint32_t segment, std::uint64_t offset, std::uint64_t length);
nb::object make_ref(const nb::bytes& header, nb::object place);
nb::object make_message(const Entry& entry);
Entry parse_message(nb::handle message);
std::uint64_t parse_u64(nb::handle value);
std::uint32_t parse_u32(nb::handle value);

void bind_arena(nb::module_& module);
void bind_child(nb::module_& module);
void bind_gather(nb::module_& module);
void bind_memory(nb::module_& module);
void bind_rings(nb::module_& module);
void bind_server(nb::module_& module);

}  // namespace wfserve
