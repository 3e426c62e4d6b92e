"""A split gives each version its share, and equal headers the same version."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from wfserve.registry.traffic import Split

WEIGHTS = st.dictionaries(
    st.from_regex(r"[0-9]{1,3}\.[0-9]", fullmatch=True), st.floats(1e-3, 1e6), min_size=1, max_size=8
)


@given(WEIGHTS)
def test_shares_follow_weights(weights):
    split = Split(weights)
    points = 2000
    found = Counter(split.at((number + 0.5) / points) for number in range(points))
    total = sum(weights.values())
    for version, weight in weights.items():
        assert abs(found[version] - points * weight / total) <= 1.5


@given(WEIGHTS, st.sampled_from([0.0, 1 - 2**-53, 1.0]))
def test_every_point_is_somebodys(weights, point):
    assert Split(weights).at(point) in weights


@given(WEIGHTS, st.binary())
def test_equal_headers_go_the_same_way(weights, value):
    headers = [(b"accept", b"*/*"), (b"x-user", value)]
    assert len({Split(weights, "x-user").pick(headers) for _ in range(3)}) == 1


def test_values_of_the_header_are_spread():
    split = Split({"1.0": 1, "2.0": 3}, "x-user")
    found = Counter(split.pick([(b"x-user", str(number).encode())]) for number in range(4000))
    assert 900 < found["1.0"] < 1100


def test_without_the_header_chance_picks():
    split = Split({"1.0": 1, "2.0": 1}, "x-user")
    assert {split.pick([(b"x-other", b"a")]) for _ in range(64)} == {"1.0", "2.0"}
