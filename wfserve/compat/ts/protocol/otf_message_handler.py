"""Workers here speak no such protocol; handlers import one function from here, and only to stream."""

from __future__ import annotations

from ..handler_utils.utils import send_intermediate_predict_response

__all__ = ["send_intermediate_predict_response"]
