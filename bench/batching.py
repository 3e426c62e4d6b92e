"""What batches are worth: a served network against its own throughput, and our policy against an oracle.

    python -m bench.batching [--json FILE]

`served` measures the first, `oracle` simulates the second, on costs that are made up and on the one that a
stage learns from the network's batches.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from bench import oracle, served
from bench.goals import Goal, show, write

GOALS = (
    Goal("served_vs_offline", "32 clients of a MiniLM, against a loop offline", 0.95, at_least=True),
    Goal("p99_vs_oracle", "p99 at 70 % load, against an oracle's; of the worst cost", 1.3),
)


def measure() -> dict[str, float]:
    """Return all figures, and print what they are made of."""
    numbers = served.figures(max(1, len(os.sched_getaffinity(0)) - 1))
    served.show(numbers)
    seconds = {size: numbers[f"offline_ms_{size}"] / 1e3 for size in served.SIZES}
    learned = oracle.Server.from_batches(seconds, served.BATCH)
    return numbers | oracle.figures(oracle.SERVERS | {"learned": learned})


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    arguments = parser.parse_args()
    numbers = measure()
    show(GOALS, numbers)
    write(arguments.json, numbers)


if __name__ == "__main__":
    main()
