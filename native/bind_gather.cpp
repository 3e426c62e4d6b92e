// Rows are any contiguous buffers; they are held while they are copied, which needs no GIL.
#include <nanobind/nanobind.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "bindings.hpp"
#include "gather.hpp"

namespace wfserve {

namespace {

std::vector<Buffer> buffers_of(const nb::sequence& exporters) {
    std::vector<Buffer> buffers;
    buffers.reserve(nb::len(exporters));
    for (nb::handle exporter : exporters) buffers.emplace_back(exporter, PyBUF_SIMPLE);
    return buffers;
}

bool same_size(const std::vector<Buffer>& buffers) {
    return std::all_of(buffers.begin(), buffers.end(),
                       [&](const Buffer& each) { return each.size() == buffers.front().size(); });
}

Rows rows_of(const std::vector<Buffer>& buffers) {
    Rows rows;
    rows.starts.reserve(buffers.size());
    for (const Buffer& each : buffers) rows.starts.push_back(each.data());
    if (!buffers.empty()) rows.size = buffers.front().size();
    return rows;
}

void gather(nb::object destination, const nb::sequence& sources) {
    const Buffer whole(destination, PyBUF_WRITABLE);
    const std::vector<Buffer> buffers = buffers_of(sources);
    if (!same_size(buffers)) throw std::invalid_argument("The rows differ in size");
    const Rows rows = rows_of(buffers);
    if (whole.size() != rows.count() * rows.size)
        throw std::invalid_argument("The destination is not as large as the rows");
    if (!rows.may_gather(whole.data()))
        throw std::invalid_argument("A row lies in the destination, but not in its place");
    const nb::gil_scoped_release released;
    rows.gather(whole.data());
}

bool adjacent(const nb::sequence& sources) {
    const std::vector<Buffer> buffers = buffers_of(sources);
    return same_size(buffers) && rows_of(buffers).adjacent();
}

}  // namespace

void bind_gather(nb::module_& module) {
    const auto gather_signature = nb::sig(
        "def gather(destination: typing_extensions.Buffer, "
        "sources: collections.abc.Sequence[typing_extensions.Buffer]) -> None");
    const auto adjacent_signature =
        nb::sig("def adjacent(sources: collections.abc.Sequence[typing_extensions.Buffer]) -> bool");
    module.def("gather", gather, nb::arg("destination"), nb::arg("sources"), gather_signature,
               "Copy `sources`, contiguous and of one size, one behind the other, without the GIL.\n\n"
               "`destination` is writable, contiguous and exactly as large; a row that lies in its place\n"
               "there is left alone. One that is reused is filled many times faster than fresh memory,\n"
               "whose pages fault. Raises `ValueError` if sizes do not fit or a row lies elsewhere in it.");
    module.def("adjacent", adjacent, nb::arg("sources"), adjacent_signature,
               "Tell whether the sources are of one size and each begins where the one before it ends.\n\n"
               "Within one mapping they then are one view, and nothing has to be gathered.");
}

}  // namespace wfserve
