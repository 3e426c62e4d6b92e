"""One Context serves a worker for life; before every call it is told of the requests it then answers for.

Handlers keep it from `initialize` on and ask it later, so it is renewed, never replaced.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from . import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .metrics.metrics_store import MetricsStore

CONTENT_TYPE = "content-type"


class RequestProcessor:
    """One request's headers, and what the handler wants said in the response."""

    has_spoken = False  # a handler may have set something
    reported_status: int | None = None
    _reason_phrase: str | None = None

    def __init__(self, request_header: Mapping[str, Any]) -> None:
        self._request_header = request_header
        self._response_header: dict[str, str] = {}

    def get_request_property(self, key: str) -> Any:
        """Return a header, None if there is none; the case of `key` does not matter."""
        headers = self._request_header
        if hasattr(headers, "named"):  # a worker's, which know that without a look at each
            return headers.named(key)
        if key in headers:
            return headers[key]
        wanted = key.lower()
        return next((value for name, value in headers.items() if name.lower() == wanted), None)

    def get_request_properties(self) -> dict[str, Any]:
        """Return all headers as the client spelled them."""
        return dict(self._request_header)

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        """Set the status of the response."""
        self.has_spoken = True
        self.reported_status = code
        self._reason_phrase = reason_phrase

    def get_response_status_code(self) -> int:
        """Return the status of the response, 200 if nothing was reported."""
        return 200 if self.reported_status is None else self.reported_status

    def get_response_status_phrase(self) -> str | None:
        """Return the reason phrase, None if nothing was reported."""
        return self._reason_phrase

    def add_response_property(self, key: str, value: str) -> None:
        """Set a header of the response."""
        self.has_spoken = True
        self._response_header[key] = value

    def get_response_headers(self) -> dict[str, str]:
        """Return the headers set so far; the caller may change them."""
        self.has_spoken = True
        return self._response_header

    def get_response_header(self, key: str) -> str | None:
        """Return a header set so far, None if there is none."""
        return self._response_header.get(key)


class Context:
    """What a handler may know of its model, and of the requests of the batch at hand."""

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: Mapping[str, Any] | None,
        batch_size: int,
        gpu: int | None,
        mms_version: str = __version__,
        limit_max_image_pixels: bool = True,
        metrics: MetricsStore | None = None,
        model_yaml_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self.system_properties: dict[str, Any] = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "MMS",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }
        self.model_yaml_config = dict(model_yaml_config or {})
        self.metrics = metrics
        self.request_ids: dict[int, str] | None = None
        self.request_processor: Sequence[RequestProcessor] = ()
        self.stopping_criteria: Callable[..., bool] | None = None
        self.header_key_sequence_id = _sequence_header("ID")
        self.header_key_sequence_start = _sequence_header("START")
        self.header_key_sequence_end = _sequence_header("END")

    def get_request_id(self, idx: int = 0) -> str | None:
        """Return the id of request `idx` of the batch."""
        return None if self.request_ids is None else self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> Any:
        """Return a header of request `idx`, None if there is none; the case of `key` does not matter."""
        return self.request_processor[idx].get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, Any]:
        """Return all headers of request `idx`."""
        return self.request_processor[idx].get_request_properties()

    def get_sequence_id(self, idx: int) -> str | None:
        """Return the id of the sequence that request `idx` belongs to, None if it belongs to none."""
        sequence: str | None = self.get_request_header(idx, self.header_key_sequence_id)
        return sequence

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Set the content type of response `idx`."""
        self.set_response_header(idx, CONTENT_TYPE, value)

    def get_response_content_type(self, idx: int) -> str | None:
        """Return the content type set for response `idx`, None if none was."""
        return self.get_response_headers(idx).get(CONTENT_TYPE)

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a header of response `idx`."""
        self.request_processor[idx].add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        """Return the headers set for response `idx`."""
        return self.request_processor[idx].get_response_headers()

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Set the status of response `idx`; there is none while the handler is loaded."""
        if self.request_processor:
            self.request_processor[idx].report_status(code, phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        """Set the status of every response of the batch."""
        for processor in self.request_processor:
            processor.report_status(code, phrase)

    def get_response_status(self, idx: int) -> tuple[int, str | None]:
        """Return the status and phrase of response `idx`."""
        processor = self.request_processor[idx]
        return processor.get_response_status_code(), processor.get_response_status_phrase()


def _sequence_header(what: str) -> str:
    name = f"TS_REQUEST_SEQUENCE_{what}"
    return os.environ.get(name, name.lower())
