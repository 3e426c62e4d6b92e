// A test is a function with a name; the first check that fails says where and ends its process.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace wfserve::test {

struct Test {
    const char* name;
    void (*run)();
};

inline std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}

struct Registration {
    Registration(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

[[noreturn]] inline void fail(const char* condition, const char* file, int line) {
    std::fprintf(stderr, "%s:%d: this is not so: %s\n", file, line, condition);
    std::abort();
}

}  // namespace wfserve::test

#define TEST(name)                                                             \
    static void name();                                                        \
    static const wfserve::test::Registration registration_##name(#name, name); \
    static void name()

#define CHECK(condition) ((condition) ? void() : wfserve::test::fail(#condition, __FILE__, __LINE__))
