// What a worker does with every input and result, each in one call: several of Python's take a microsecond.
#include <nanobind/nanobind.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <optional>
#include <stdexcept>

#include "bindings.hpp"
#include "filling.hpp"
#include "frame.hpp"

namespace wfserve {

namespace {

std::uintptr_t address_of(nb::handle exporter) {
    return reinterpret_cast<std::uintptr_t>(Buffer(exporter, PyBUF_SIMPLE).data());
}

constexpr std::size_t kLarge = 1 << 20;  // bytes that other threads need not wait for

void copy(std::byte* target, const void* source, std::size_t size) {
    std::optional<nb::gil_scoped_release> released;
    if (size >= kLarge) released.emplace();
    if (size > 0) std::memcpy(target, source, size);
}

void copy_from(nb::handle destination, std::uintptr_t address) {
    const Buffer target(destination, PyBUF_WRITABLE);
    copy(target.data(), reinterpret_cast<const void*>(address), target.size());
}

// wfserve/transport/progress.py says what the word holds. One store: whoever reads it sees all of it.
void note_progress(nb::handle memory, std::uint64_t tag, std::uint64_t step, std::uint64_t item) {
    const Buffer scratch(memory, PyBUF_WRITABLE);
    if (scratch.size() < sizeof(std::uint64_t)) throw std::invalid_argument("The memory is too short");
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    const auto moment = static_cast<std::uint32_t>(now.tv_sec * 1000 + now.tv_nsec / 1'000'000);
    const std::uint64_t word = (step & 0xFF) | (tag & 0xFF) << 8 |
                               std::min<std::uint64_t>(item, 0xFFFF) << 16 | std::uint64_t{moment} << 32;
    __atomic_store_n(reinterpret_cast<std::uint64_t*>(scratch.data()), word, __ATOMIC_RELEASE);
}

std::optional<FrameHeader> header_of(const nb::bytes& data) {
    if (data.size() == 0) return std::nullopt;
    if (data.size() != sizeof(FrameHeader)) throw std::invalid_argument("A frame header has 96 bytes");
    FrameHeader header;
    std::memcpy(&header, data.data(), sizeof header);
    return header;
}

// A mapped extent, which results are written to.
class LentExtent {
  public:
    LentExtent(nb::handle memory, std::uint32_t segment, std::uint64_t offset)
        : memory_(memory, PyBUF_WRITABLE), filling_(memory_.size()), segment_(segment), offset_(offset) {}

    bool fits(std::uint64_t nbytes) const { return filling_.fits(nbytes); }

    nb::object place(std::uint64_t nbytes, const nb::bytes& header) {
        const std::optional<FrameHeader> frame = header_of(header);
        const auto start = filling_.place(nbytes, frame ? &*frame : nullptr);
        return start ? make_descriptor(segment_, offset_ + *start, nbytes) : nb::none();
    }

    nb::object put(const nb::bytes& header, std::uint64_t nbytes, nb::handle source) {
        if (PyLong_Check(source.ptr())) {
            return put_from(header, nbytes, reinterpret_cast<const void*>(nb::cast<std::uintptr_t>(source)));
        }
        const Buffer data(source, PyBUF_SIMPLE);
        if (data.size() != nbytes) throw std::invalid_argument("The source is not as large as its frame");
        return put_from(header, nbytes, data.data());
    }

  private:
    nb::object put_from(const nb::bytes& header, std::uint64_t nbytes, const void* source) {
        const std::optional<FrameHeader> frame = header_of(header);
        const auto start = filling_.place(nbytes, frame ? &*frame : nullptr);
        if (!start) return nb::none();
        copy(memory_.data() + *start, source, nbytes);
        return make_ref(header, make_descriptor(segment_, offset_ + *start, nbytes));
    }

    Buffer memory_;
    Filling filling_;
    std::uint32_t segment_;
    std::uint64_t offset_;
};

}  // namespace

void bind_memory(nb::module_& module) {
    module.def("address_of", address_of, nb::arg("buffer"),
               nb::sig("def address_of(buffer: typing_extensions.Buffer) -> int"),
               "Return where the bytes of a contiguous buffer lie in this process.");
    module.def("copy_from", copy_from, nb::arg("destination"), nb::arg("address"),
               nb::sig("def copy_from(destination: typing_extensions.Buffer, address: int) -> None"),
               "Fill a contiguous buffer with what lies at an address of this process.\n\n"
               "The caller answers for it that as many bytes lie there.");
    module.def(
        "note_progress", note_progress, nb::arg("memory"), nb::arg("tag"), nb::arg("step"), nb::arg("item"),
        nb::sig(
            "def note_progress(memory: typing_extensions.Buffer, tag: int, step: int, item: int) -> None"),
        "Write the first word of a worker's progress, which begins with `item` of `step` now.");
    nb::class_<LentExtent>(
        module, "LentExtent", nb::is_final(),
        "Lent memory that is filled from its start; pieces begin at multiples of 64 bytes,\n"
        "but equal tensors lie one behind the other.")
        .def(nb::init<nb::handle, std::uint32_t, std::uint64_t>(), nb::arg("memory"), nb::arg("segment"),
             nb::arg("offset"),
             nb::sig(
                 "def __init__(self, memory: typing_extensions.Buffer, segment: int, offset: int) -> None"),
             "Fill `memory`, as it is mapped, which lies at `offset` of `segment`.")
        .def("fits", &LentExtent::fits, nb::arg("nbytes"), "Whether a piece of `nbytes` fits for certain.")
        .def("place", &LentExtent::place, nb::arg("nbytes"), nb::arg("header") = nb::bytes("", 0),
             nb::sig("def place(self, nbytes: int, header: bytes = b'') "
                     "-> wfserve.transport.base.Descriptor | None"),
             "Take a piece, for the frame with `header` if it is one; None if there is no room.")
        .def(
            "put", &LentExtent::put, nb::arg("header"), nb::arg("nbytes"), nb::arg("source"),
            nb::sig("def put(self, header: bytes, nbytes: int, source: typing_extensions.Buffer | int) "
                    "-> wfserve.transport.message.Ref | None"),
            "Take a piece and copy a frame into it: a contiguous buffer of `nbytes`, or as many bytes at an\n"
            "address of this process, for which the caller answers. None if there is no room.");
}

}  // namespace wfserve
