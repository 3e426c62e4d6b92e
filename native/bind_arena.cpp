// Every exported buffer holds its slot: a view outlives the handle that it came from.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>

#include <cstring>
#include <new>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <tuple>

#include "arena.hpp"
#include "bindings.hpp"
#include "frame.hpp"
#include "handles.hpp"

namespace wfserve {

namespace {

nb::object memory_view(nb::handle exporter) {
    nb::object view = nb::steal(PyMemoryView_FromObject(exporter.ptr()));
    if (!view.is_valid()) nb::raise_python_error();
    return view;
}

// The arena with the number that descriptors know it by.
class NumberedArena {
  public:
    NumberedArena(std::uint32_t segment, std::uint64_t limit, std::uint64_t retain, std::uint64_t reservation)
        : arena_(std::make_shared<Arena>(limit, retain, reservation)), segment_(segment) {}

    std::optional<Loan> loan(std::uint64_t nbytes) {
        const std::optional<Extent> extent = arena_->loan(nbytes);
        if (!extent) return std::nullopt;
        return Loan(Hold(arena_, extent->offset), segment_, *extent);
    }
    // What a loan, a view of it, a copy and its publication do, in one call.
    std::optional<Payload> publish(nb::bytes header, const Buffer& data) {
        check_header(header);
        std::optional<Loan> lent = loan(data.size());
        if (!lent) return std::nullopt;
        const std::uint64_t offset = lent->extent().offset;
        if (data.size() > 0) std::memcpy(lent->hold().data(offset), data.data(), data.size());
        return Payload(lent->hold(), segment_, {offset, data.size()}, std::move(header));
    }
    std::uint64_t trim(std::uint64_t most) { return arena_->trim(most); }
    void close() { arena_->close(); }
    int fd() const { return arena_->fd(); }
    std::uint64_t free_bytes() const { return arena_->free_bytes(); }
    auto statistics() const {
        const ArenaStatistics now = arena_->statistics();
        return std::make_tuple(now.slots, now.loaned_bytes, now.limit_bytes, now.resident_bytes,
                               now.high_water_bytes);
    }

  private:
    std::shared_ptr<Arena> arena_;
    std::uint32_t segment_;
};

// A segment that another process owns, mapped whole.
class SegmentMap {
  public:
    explicit SegmentMap(int fd) : mapping_(std::make_shared<Mapping>(fd, size_of(fd))) {}

    const std::shared_ptr<Mapping>& mapping() const { return mapping_; }

  private:
    std::shared_ptr<Mapping> mapping_;
};

// A part of a mapped segment; a weak reference to it tells whether anybody still looks.
struct View {
    std::shared_ptr<Mapping> mapping;
    Extent extent;
};

int fill(Py_buffer* view, PyObject* exporter, std::byte* data, std::uint64_t length, bool read_only,
         int flags) {
    return PyBuffer_FillInfo(view, exporter, data, static_cast<Py_ssize_t>(length), read_only, flags);
}

template <class Kind, bool read_only>
int export_handle(PyObject* self, Py_buffer* view, int flags) noexcept {
    const Handle& handle = *nb::inst_ptr<Kind>(self);
    const Hold* hold = handle.hold_if_any();
    if (!hold) {
        view->obj = nullptr;
        PyErr_SetString(PyExc_ValueError, "The handle has been released");
        return -1;
    }
    const Extent& extent = handle.extent();
    if (fill(view, self, hold->data(extent.offset), extent.length, read_only, flags) != 0) return -1;
    view->internal = new (std::nothrow) Hold(*hold);
    if (view->internal) return 0;
    Py_CLEAR(view->obj);
    PyErr_NoMemory();
    return -1;
}

void end_export(PyObject*, Py_buffer* view) noexcept {
    delete static_cast<Hold*>(view->internal);
}

int export_view(PyObject* self, Py_buffer* view, int flags) noexcept {
    const auto& [mapping, extent] = *nb::inst_ptr<View>(self);
    return fill(view, self, mapping->data() + extent.offset, extent.length, false, flags);
}

PyType_Slot loan_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(export_handle<Loan, false>)},
                            {Py_bf_releasebuffer, reinterpret_cast<void*>(end_export)},
                            {0, nullptr}};
PyType_Slot payload_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(export_handle<Payload, true>)},
                               {Py_bf_releasebuffer, reinterpret_cast<void*>(end_export)},
                               {0, nullptr}};
PyType_Slot view_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(export_view)}, {0, nullptr}};

nb::object view_of(const SegmentMap& map, nb::int_ offset, nb::int_ length) {
    const Extent part = checked_part(std::move(offset), std::move(length), map.mapping()->size());
    return memory_view(nb::cast(View{map.mapping(), part}));
}

void bind_handles(nb::module_& module) {
    const auto descriptor = nb::sig("def descriptor(self) -> wfserve.transport.base.Descriptor");
    nb::class_<Payload>(module, "Payload", nb::type_slots(payload_slots), nb::is_final(),
                        "Published bytes: immutable, and freed with their last handle and view.")
        .def_prop_ro("header", &Payload::header, "The frame header, 96 bytes.")
        .def_prop_ro("descriptor", &Payload::descriptor, nb::for_getter(descriptor), "Where the bytes lie.")
        .def_prop_ro(
            "nbytes", [](const Payload& self) { return self.extent().length; }, "Length of the bytes.")
        .def("part", publish<Payload>, nb::arg("header"), nb::arg("offset"), nb::arg("length"),
             "Return a handle on a part. Raises `ValueError` if it does not lie within, or after `release`.")
        .def("share", &Payload::share, "Return one more handle. Raises `ValueError` after `release`.")
        .def("borrow", memory_view, nb::sig("def borrow(self) -> memoryview"),
             "Return a read-only view, which holds the slot. Raises `ValueError` after `release`.")
        .def("release", &Payload::release, "Give the handle up; idempotent.");
    nb::class_<Loan>(module, "Loan", nb::type_slots(loan_slots), nb::is_final(),
                     "A writable slot that nobody else sees yet.")
        .def_prop_ro("descriptor", &Loan::descriptor, nb::for_getter(descriptor), "Where the slot lies.")
        .def_prop_ro("buffer", memory_view, nb::for_getter(nb::sig("def buffer(self) -> memoryview")),
                     "The writable bytes; a view holds the slot. Raises `ValueError` after `release`.")
        .def("publish", publish<Loan>, nb::arg("header"), nb::arg("offset"), nb::arg("length"),
             "Publish a part. Raises `ValueError` if it does not lie within the loan, or after `release`.")
        .def("release", &Loan::release, "End the loan; idempotent.");
}

}  // namespace

void bind_arena(nb::module_& module) {
    bind_handles(module);
    nb::class_<NumberedArena>(module, "Arena", nb::is_final(),
                              "A segment, handed out in slots of powers of two; all of its state is private.")
        .def(nb::init<std::uint32_t, std::uint64_t, std::uint64_t, std::uint64_t>(), nb::arg("segment"),
             nb::arg("limit_bytes"), nb::arg("retain_bytes"), nb::arg("reservation_bytes"),
             "Reserve address space; memory is taken as it is touched. Raises `OSError` if that is refused.")
        .def("loan", &NumberedArena::loan, nb::arg("nbytes"),
             "Return a slot of at least `nbytes`, or None if the limit would be exceeded.")
        .def(
            "publish",
            [](NumberedArena& self, nb::bytes header, nb::handle data) {
                return self.publish(std::move(header), Buffer(data, PyBUF_SIMPLE));
            },
            nb::arg("header"), nb::arg("data"),
            nb::sig("def publish(self, header: bytes, data: bytes | bytearray) -> Payload | None"),
            "Return a copy of `data` as a payload, or None if the limit would be exceeded.")
        .def("trim", &NumberedArena::trim, nb::arg("nbytes"),
             "Give back what was free for a whole round, `nbytes` or so; 0 is returned when it is over.")
        .def("close", &NumberedArena::close, "Lend no more; the segment goes with its last slot.")
        .def("statistics", &NumberedArena::statistics,
             "Return slots held and loaned, limit, resident and high-water bytes.")
        .def_prop_ro("free_bytes", &NumberedArena::free_bytes, "Bytes below the limit that are not lent.")
        .def_prop_ro("fd", &NumberedArena::fd, "The memfd, -1 once the segment is gone.");
    nb::class_<View>(module, "View", nb::type_slots(view_slots), nb::is_weak_referenceable(), nb::is_final(),
                     "What a mapped part's memoryviews look at (their `obj`).");
    nb::class_<SegmentMap>(module, "SegmentMap", nb::is_final(), "Another process's segment, mapped whole.")
        .def(nb::init<int>(), nb::arg("fd"),
             "Map all of `fd`, which may be closed afterwards. Raises `OSError`.")
        .def("view", view_of, nb::arg("offset"), nb::arg("length"),
             nb::sig("def view(self, offset: int, length: int) -> memoryview"),
             "Return a writable view of a part. Raises `ValueError` if it does not lie within the segment.");
}

}  // namespace wfserve
