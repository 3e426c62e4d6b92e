// Neighbouring rows are copied as one, and a row that is in its place already is not copied.
#pragma once

#include <cstddef>
#include <cstring>
#include <functional>
#include <vector>

namespace wfserve {

// Rows of one size, wherever they lie.
struct Rows {
    std::vector<const std::byte*> starts;
    std::size_t size = 0;  // of each, in bytes

    std::size_t count() const { return starts.size(); }

    // The first row at or after `first` behind which its successor does not follow; one past it.
    std::size_t run_end(std::size_t first) const {
        std::size_t last = first + 1;
        while (last < count() && starts[last] == starts[last - 1] + size) ++last;
        return last;
    }

    // Whether each row begins where the one before it ends.
    bool adjacent() const { return count() == 0 || run_end(0) == count(); }

    // Whether no row shares bytes with the `count() * size` at `destination`, other than in its own place.
    bool may_gather(const std::byte* destination) const {
        const std::less<const std::byte*> before;
        for (std::size_t row = 0; row < count(); ++row) {
            const std::byte* start = starts[row];
            const bool apart =
                !before(start, destination + count() * size) || !before(destination, start + size);
            if (!apart && start != destination + row * size) return false;
        }
        return true;
    }

    // Copy the rows one behind the other. Plain memcpy: stores past the caches are a tenth faster for large
    // rows, lose that again when the batch is read, and take more than twice as long for small ones.
    void gather(std::byte* destination) const {
        if (size == 0) return;
        for (std::size_t first = 0, last = 0; first < count(); first = last) {
            last = run_end(first);
            std::byte* place = destination + first * size;
            if (starts[first] != place) std::memcpy(place, starts[first], (last - first) * size);
        }
    }
};

}  // namespace wfserve
