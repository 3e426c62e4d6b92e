"""Names of the units a metric may have, as handlers spell them."""

from __future__ import annotations

from typing import ClassVar


class Units:
    """Short spellings of units, and what they stand for."""

    units: ClassVar[dict[str | None, str]] = {
        "ms": "Milliseconds",
        "s": "Seconds",
        "percent": "Percent",
        "count": "Count",
        "": "unit",
        None: "unit",
        "B": "Bytes",
        "kB": "Kilobytes",
        "KB": "Kilobytes",
        "MB": "Megabytes",
        "GB": "Gigabytes",
    }
