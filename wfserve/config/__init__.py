"""All settings of a server, from every source, in one frozen `Config`, checked before anything starts."""

from wfserve.config.address import LOOPBACK, Address, Api, is_loopback
from wfserve.config.properties import parse_properties
from wfserve.config.settings import INFERENCE, MANAGEMENT, METRICS, Config
from wfserve.config.sources import load, remarks

__all__ = [
    "INFERENCE",
    "LOOPBACK",
    "MANAGEMENT",
    "METRICS",
    "Address",
    "Api",
    "Config",
    "is_loopback",
    "load",
    "parse_properties",
    "remarks",
]
