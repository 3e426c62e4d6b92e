"""A Family is one metric at one moment: its name, its type and a value for each set of labels.

`lines` writes one as Prometheus's text format 0.0.4 has it. prometheus-client cannot: it ends the name of
every counter with `_total`, and those of TorchServe do not end so.
"""

from __future__ import annotations

from itertools import accumulate, chain
from typing import TYPE_CHECKING, Literal, NamedTuple

from wfserve.measure.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

Kind = Literal["counter", "gauge", "histogram"]
KINDS: tuple[Kind, ...] = ("counter", "gauge", "histogram")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Labels:
    """Names and values of labels; `text` is written once, for all the families that have them."""

    __slots__ = ("pairs", "text")

    def __init__(self, *pairs: tuple[str, str]) -> None:
        self.pairs = pairs
        self.text = ",".join([f'{name}="{_quoted(value)}"' for name, value in sorted(pairs)])


NO_LABELS = Labels()


class Family(NamedTuple):
    """One metric; `samples` may be read once."""

    name: str
    kind: Kind
    help: str
    samples: Iterable[tuple[Labels, float | Histogram]]
    unit: str = ""


def together(parts: Iterable[Iterable[Family]], added: str, greatest: Collection[str] = ()) -> list[Family]:
    """Return the families of several processes as those of one, each once; samples are read.

    Counters and histograms are sums, and gauges whose names begin with `added`, but for those of which the
    `greatest` counts. Of others it is the first.
    """
    found: dict[str, Family] = {}
    values: dict[str, dict[str, tuple[Labels, float | Histogram]]] = {}
    for family in chain.from_iterable(parts):
        found.setdefault(family.name, family)
        samples = values.setdefault(family.name, {})
        sums = family.kind != "gauge" or family.name.startswith(added)
        for labels, value in family.samples:
            if labels.text not in samples:
                samples[labels.text] = labels, value
            elif family.name in greatest:
                samples[labels.text] = max(samples[labels.text], (labels, value), key=_value)
            elif sums:
                samples[labels.text] = labels, _plus(samples[labels.text][1], value)
    return [family._replace(samples=list(values[name].values())) for name, family in found.items()]


def _value(sample: tuple[Labels, float | Histogram]) -> float:
    _, value = sample
    assert not isinstance(value, Histogram)
    return value


def _plus(one: float | Histogram, other: float | Histogram) -> float | Histogram:
    if isinstance(one, Histogram) and isinstance(other, Histogram):
        return one.plus(other)
    assert not isinstance(one, Histogram)
    assert not isinstance(other, Histogram)
    return one + other


def lasting(parts: Iterable[Iterable[Family]]) -> list[Family]:
    """Return what remains of processes that have ended: the sums of what they had counted."""
    return [family for family in together(parts, "") if family.kind != "gauge"]


def without(families: Iterable[Family], concerned: Callable[[Labels], bool]) -> list[Family]:
    """Return families without the samples whose labels are `concerned`; samples are read."""
    return [
        family._replace(
            samples=[(labels, value) for labels, value in family.samples if not concerned(labels)]
        )
        for family in families
    ]


def sample_names(name: str, kind: Kind) -> tuple[str, ...]:
    """Return the names that lines of the family begin with."""
    if kind == "histogram":
        return f"{name}_bucket", f"{name}_sum", f"{name}_count"
    return (name,)


def selected(family: Family, names: Collection[str]) -> bool:
    """Whether `names` (all families if empty) hold the family's own or one of its lines."""
    return (
        not names or family.name in names or any(n in names for n in sample_names(family.name, family.kind))
    )


def lines(family: Family, names: Collection[str] = ()) -> Iterator[str]:
    """Write the family; of its lines only those in `names`, unless these hold its own name or nothing."""
    yield f"# HELP {family.name} {_escaped(family.help)}\n# TYPE {family.name} {family.kind}\n"
    whole = not names or family.name in names
    for labels, value in family.samples:
        if isinstance(value, Histogram):
            for name, text in _histogram(family.name, labels.text, value):
                if whole or name in names:
                    yield text
        else:
            yield f"{family.name}{_braced(labels.text)} {float(value)!r}\n"


def _histogram(name: str, labels: str, value: Histogram) -> Iterator[tuple[str, str]]:
    before = f"{labels}," if labels else ""
    bounds = [*map(repr, value.bounds), "+Inf"]
    counts = [*accumulate(value.counts)]
    for bound, count in zip(bounds, counts, strict=True):
        yield f"{name}_bucket", f'{name}_bucket{{{before}le="{bound}"}} {count}.0\n'
    yield f"{name}_sum", f"{name}_sum{_braced(labels)} {value.sum!r}\n"
    yield f"{name}_count", f"{name}_count{_braced(labels)} {counts[-1]}.0\n"


def _braced(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"")
