"""Writes the traces beside it: what arrived when, in steps of `STEP` seconds. Equal in every run.

python tests/scheduling/traces/make.py
"""

import csv
import math
import random
from pathlib import Path

STEP = 0.25  # seconds
SEED = 6
ONE = 10.0  # items a second that the worker of the tests serves


def poisson(chance, mean):
    """A number of arrivals (Knuth, The Art of Computer Programming, volume 2, 3.4.1)."""
    limit, product, count = math.exp(-mean), chance.random(), 0
    while product > limit:
        product *= chance.random()
        count += 1
    return count


def step(second):
    """One client, 64 from second 10 to 30, and one again."""
    return 3.2 * ONE if 10 <= second < 30 else 0.2 * ONE


def day(second):
    """A day in two minutes: quiet at night, a peak before and a higher one after noon."""
    hour = second / 5
    return ONE * (0.1 + 2.0 * math.exp(-((hour - 10) ** 2) / 8) + 3.0 * math.exp(-((hour - 16) ** 2) / 6))


def flapping(second):
    """Two seconds of load for more than two workers, two of hardly any, for a minute."""
    return (2.5 if second % 4 < 2 else 0.1) * ONE if second < 60 else 0.0


def steps(rate, seconds, burst=None):
    """Rows of a Poisson process of varying rate; `burst` adds to a step."""
    chance = random.Random(SEED)
    for number in range(int(seconds / STEP)):
        second = number * STEP
        arrivals = poisson(chance, rate(second) * STEP) + (burst(second) if burst else 0)
        if arrivals:
            yield second, arrivals


TRACES = {
    "step": steps(step, 60, lambda second: 64 if second == 10 else 0),
    "day": steps(day, 120),
    "flapping": steps(flapping, 60),
    # Batches of four with seconds between them, which the one worker takes as they come.
    "bursts": steps(lambda second: 0.0, 60, lambda second: 4 if second % 3 == 0 else 0),
    "below": steps(lambda second: 0.3 * ONE, 60),
}

if __name__ == "__main__":
    for name, rows in TRACES.items():
        with (Path(__file__).parent / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("second", "arrivals"), *rows])
