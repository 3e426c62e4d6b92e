"""Element types are known by torch's names and the bytes an element takes; this module does not import torch.

Left out are torch's quantized types (a scale belongs to the tensor) and its shells without arithmetic (bits8,
int4, …).
"""

from __future__ import annotations

from typing import Final

# The position of a name is its code in a frame's header: append only.
DTYPES: Final = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "uint16": 2,
    "int16": 2,
    "uint32": 4,
    "int32": 4,
    "uint64": 8,
    "int64": 8,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
}
