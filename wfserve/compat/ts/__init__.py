"""The `ts` package that archived handlers import; on the import path of worker processes only.

`__version__` is the TorchServe release whose behaviour it follows, which handlers may ask for.
"""

__version__ = "0.12.0"
