"""Every key that TorchServe 0.12.0 or wfserve reads is here: what it sets, or why it sets nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wfserve.config import readers
from wfserve.config.address import parse_address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wfserve.config.readers import Reader


class Key(NamedTuple):
    """How the text of a key is read, and which field of `Config` it sets; by default the one of its name."""

    read: Reader
    field: str | None = None


TORCHSERVES: Mapping[str, Key] = {
    "inference_address": Key(parse_address),
    "management_address": Key(parse_address),
    "metrics_address": Key(parse_address),
    "workflow_store": Key(readers.path),
    "model_store": Key(readers.path),
    "allowed_urls": Key(readers.patterns),
    "job_queue_size": Key(readers.positive),
    "number_of_gpu": Key(readers.count),
    "max_request_size": Key(readers.positive),
    "max_response_size": Key(readers.positive),
    "default_response_timeout": Key(readers.seconds, "response_timeout"),
    "default_startup_timeout": Key(readers.seconds, "startup_timeout"),
    "unregister_model_timeout": Key(readers.seconds, "unregister_timeout"),
    "decode_input_request": Key(readers.flag),
    "limit_max_image_pixels": Key(readers.flag),
    "disable_token_authorization": Key(readers.flag),
    "token_expiration_min": Key(readers.minutes, "token_expiration"),
    "cors_allowed_origin": Key(readers.word),
    "cors_allowed_methods": Key(readers.word),
    "cors_allowed_headers": Key(readers.word),
    "keystore": Key(readers.path),
    "keystore_pass": Key(readers.verbatim),
    "keystore_type": Key(readers.word),
    "private_key_file": Key(readers.path),
    "certificate_file": Key(readers.path),
    "default_service_handler": Key(readers.word),
    "service_envelope": Key(readers.envelope),
    "install_py_dep_per_model": Key(readers.flag),
    "blacklist_env_vars": Key(readers.pattern),
    "enable_metrics_api": Key(readers.flag),
    "metrics_mode": Key(readers.metrics_mode),
    "metrics_config": Key(readers.path),
    "disable_system_metrics": Key(readers.flag),
    "model_snapshot": Key(readers.word),
}
OURS: Mapping[str, Key] = {
    "load_workflows": Key(readers.names),
    "state_dir": Key(readers.path),
    "processes": Key(readers.positive),
    "start_empty": Key(readers.flag),
    "snapshot": Key(readers.path),
    "max_archive_size": Key(readers.positive),
    "arena_size": Key(readers.count),
    "pinned_size": Key(readers.count),
    "worker_threads": Key(readers.count),
    "worker_spin": Key(readers.microseconds),
    "worker_idle_timeout": Key(readers.seconds),
    "stop_timeout": Key(readers.seconds),
    "insecure_management": Key(readers.flag),
}
READ: Mapping[str, Key] = {**TORCHSERVES, **OURS}

VARIABLES_ON = "enable_envvars_config"
ALLOWED_URLS_VARIABLE_ON = "use_env_allowed_urls"
SWITCHES = (VARIABLES_ON, ALLOWED_URLS_VARIABLE_ON)  # read on the way to the other keys

_JAVA = "there is no Java here"
_GRPC = "there is no gRPC here"
_IPEX = "workers are started without Intel's launcher and extension"
_SEQUENCE = "there are no sequences of requests here"
_MODELS_ALONE = "models outside workflows are not served here; load_workflows names workflows"
_WORKERS = "a workflow's min-workers and max-workers say how many workers its models have"
_PORTS = "workers have no ports here"
_ITSELF = "TorchServe wrote this into its snapshot for itself"

MEANINGLESS: Mapping[str, str] = {
    "load_models": _MODELS_ALONE,
    "models": _MODELS_ALONE,
    "enable_model_api": "models come and go with their workflows; POST and DELETE /models answer 405",
    "default_workers_per_model": _WORKERS,
    "debug": "the log is enough",
    "initial_worker_port": _PORTS,
    "initial_distribution_port": _PORTS,
    "number_of_netty_threads": _JAVA,
    "netty_client_threads": _JAVA,
    "prefer_direct_buffer": _JAVA,
    "use_native_io": _JAVA,
    "io_ratio": _JAVA,
    "async_logging": _JAVA,
    "vmargs": _JAVA,
    "plugins_path": _JAVA,
    "log_config": _JAVA,
    "cpp_log_config": "there is no C++ backend here",
    "python": "workers run the server's own Python, or their model's",
    "model_server_home": "wfserve needs no home",
    "ipex_enable": _IPEX,
    "ipex_gpu_enable": _IPEX,
    "cpu_launcher_enable": _IPEX,
    "cpu_launcher_args": _IPEX,
    "model_metrics_auto_detect": "metrics that handlers make up are always shown",
    "metric_time_interval": "metrics are measured when they are asked for, and once a minute for the log",
    "system_metrics_cmd": "metrics are measured by the server itself",
    "ts_open_inference_protocol": "KServe's paths act on models alone",
    "grpc_inference_address": _GRPC,
    "grpc_management_address": _GRPC,
    "grpc_inference_port": _GRPC,
    "grpc_management_port": _GRPC,
    "grpc_inference_max_connection_age_ms": _GRPC,
    "grpc_management_max_connection_age_ms": _GRPC,
    "grpc_inference_max_connection_age_grace_ms": _GRPC,
    "grpc_management_max_connection_age_grace_ms": _GRPC,
    "enable_grpc_ssl": _GRPC,
    "ts_header_key_sequence_id": _SEQUENCE,
    "ts_header_key_sequence_start": _SEQUENCE,
    "ts_header_key_sequence_end": _SEQUENCE,
    "version": _ITSELF,
    "tsConfigFile": _ITSELF,
}

_ODD_VARIABLES = {"token_expiration_min": "TS_TOKEN_EXPIRATION_TIME_MIN"}


def torchserve_variable(key: str) -> str:
    """Return the environment variable that TorchServe takes for `key`."""
    name = key.upper()
    return _ODD_VARIABLES.get(key) or (name if name.startswith("TS_") else f"TS_{name}")


def suggestion(key: str) -> str | None:
    """Return the key that is read and that an unknown one was probably meant to be."""
    return readers.closest(key.lower(), (*READ, *SWITCHES))
