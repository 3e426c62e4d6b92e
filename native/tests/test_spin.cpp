// A spin that does not pay is tried ever more seldom, and is never long.
#include "check.hpp"
#include "spin.hpp"

namespace {

using wfserve::SpinPolicy;

int waits_until_next(SpinPolicy& policy) {
    int waits = 0;
    while (!policy.next()) ++waits;
    return waits;
}

TEST(spins_that_pay_are_never_left_out) {
    SpinPolicy policy;
    for (int round = 0; round < 5; ++round) {
        CHECK(policy.next());
        policy.learn(true);
    }
}

TEST(spins_that_do_not_pay_become_rare_and_one_that_does_brings_them_back) {
    SpinPolicy policy;
    for (const int skipped : {0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 1023}) {
        CHECK(waits_until_next(policy) == skipped);
        policy.learn(false);
    }
    CHECK(waits_until_next(policy) == 1023);
    policy.learn(true);
    CHECK(waits_until_next(policy) == 0);
}

TEST(long_spins_learn_apart_from_brief_ones) {
    wfserve::SpinPolicies policies;
    policies.of(wfserve::kBriefSpin).learn(false);
    CHECK(waits_until_next(policies.of(2 * wfserve::kBriefSpin)) == 0);
    CHECK(waits_until_next(policies.of(wfserve::kBriefSpin)) == 1);
}

TEST(a_spin_for_nothing_ends) {
    CHECK(!wfserve::spin([] { return false; }, wfserve::kBriefSpin));
}

TEST(a_spin_sees_what_comes_while_it_lasts) {
    int asked = 0;
    wfserve::spin([&] { return ++asked == 2; }, std::chrono::hours{1});
    CHECK(asked == 2);
}

}  // namespace
