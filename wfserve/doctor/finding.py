"""A Finding is one sentence about one thing of an installation, with what to do where there is something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "note", "warning", "error"]  # an error will not run; a warning is to be looked at
Area = Literal["setting", "address", "workflow", "model", "snapshot"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What `wfserve doctor` says of `subject`, a key, an address or a file."""

    severity: Severity
    area: Area
    subject: str
    message: str
