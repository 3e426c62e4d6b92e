// Python's named tuples are made here, and nowhere else in native code.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

#include "ring.hpp"

namespace wfserve {

namespace nb = nanobind;

// Import what `wfserve.transport.base` defines; called once, when the module is initialized.
void import_contract();

nb::object make_descriptor(std::uint32_t segment, std::uint64_t offset, std::uint64_t length);
nb::object make_message(const Entry& entry);
Entry parse_message(nb::handle message);

void bind_arena(nb::module_& module);
void bind_gather(nb::module_& module);
void bind_rings(nb::module_& module);

}  // namespace wfserve
