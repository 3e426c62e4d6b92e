// Runs the tests whose names are given, or all of them.
#include <chrono>
#include <cstring>

#include "check.hpp"

namespace {

bool wanted(const char* name, int count, char** names) {
    for (int index = 1; index < count; ++index) {
        if (std::strcmp(name, names[index]) == 0) return true;
    }
    return count == 1;
}

}  // namespace

int main(int count, char** names) {
    for (const auto& test : wfserve::test::tests()) {
        if (!wanted(test.name, count, names)) continue;
        const auto began = std::chrono::steady_clock::now();
        test.run();
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
        std::printf("%6.2f s  %s\n", took.count(), test.name);
        std::fflush(stdout);  // a test that follows may fork
    }
}
