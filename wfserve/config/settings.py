"""A Config is frozen and complete: every setting has a value, checked once, before anything starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wfserve.config.address import APIS, LOOPBACK, Address, Api

INFERENCE, MANAGEMENT, METRICS = (Address(LOOPBACK, port) for port in (8080, 8081, 8082))


@dataclass(frozen=True, slots=True)
class Config:
    """All settings. Times are seconds, sizes bytes."""

    inference_address: Address = INFERENCE
    management_address: Address = MANAGEMENT
    metrics_address: Address = METRICS
    workflow_store: Path | None = None
    model_store: Path | None = None
    load_workflows: tuple[str, ...] = ()
    allowed_urls: tuple[str, ...] = ()
    state_dir: Path = Path(".wfserve")  # absolute, as all paths, once `load` has completed it
    snapshot: Path | None = None  # of TorchServe, whose models become workflows of one node
    model_snapshot: str = field(default="", repr=False)  # the same, as such a file has it
    start_empty: bool = False  # remove every workflow that the state directory has
    processes: int = 1  # that answer on the inference port; with several, one more keeps the workers
    job_queue_size: int = 100  # requests that may wait for one node
    max_request_size: int = 6_553_500
    max_response_size: int = 6_553_500
    max_archive_size: int = 16 << 30  # of a download, and of an extracted archive
    arena_size: int = 0  # payload memory; 0 = a quarter of the machine's
    pinned_size: int | None = None  # memory that GPUs copy from; None: 256 MiB where there are any
    number_of_gpu: int | None = None  # that workers are placed on, at most; None: all there are
    response_timeout: float = 120.0
    startup_timeout: float = 120.0  # of one worker, loading its model
    stop_timeout: float = 30.0  # for accepted requests, when the server is told to stop
    unregister_timeout: float = 120.0
    decode_input_request: bool = True
    limit_max_image_pixels: bool = True
    disable_token_authorization: bool | None = None  # None: off while every address is loopback
    insecure_management: bool = False  # whoever reaches the management API may run code here
    token_expiration: float = 3600.0
    key_file: Path = Path("key_file.json")  # in the working directory, as TorchServe writes it
    cors_allowed_origin: str = ""
    cors_allowed_methods: str = ""
    cors_allowed_headers: str = ""
    keystore: Path | None = None  # TLS: a keystore, or a key and a certificate, or self-signed
    keystore_pass: str = field(default="changeit", repr=False)
    keystore_type: str = "PKCS12"
    private_key_file: Path | None = None
    certificate_file: Path | None = None
    default_service_handler: str = ""  # of models whose manifests name none
    service_envelope: str = ""  # wraps what handlers get and return: body, json, kserve, kservev2
    install_py_dep_per_model: bool = False
    blacklist_env_vars: str = ""  # a regular expression: variables that workers do not get
    enable_metrics_api: bool = True
    metrics_mode: Literal["log", "prometheus", "legacy"] = "prometheus"
    metrics_config: Path | None = None  # definitions of handlers' metrics, metrics.yaml
    disable_system_metrics: bool = False
    worker_idle_timeout: float = 60.0  # without use, before a worker above min-workers goes
    worker_threads: int = 0  # intra-op threads of a worker; 0 = cores shared among a workflow's workers
    worker_spin: int = 400  # microseconds that a worker waits awake after a batch of few inputs
    unused: tuple[str, ...] = ()  # TorchServe's keys that were given and mean nothing here
    unknown: tuple[str, ...] = ()  # keys that were given and are nobody's

    @property
    def apis(self) -> tuple[Api, ...]:
        """Return the APIs that are served."""
        return APIS if self.enable_metrics_api else APIS[:2]

    def address(self, api: Api) -> Address:
        """Return where `api` listens."""
        return {
            "inference": self.inference_address,
            "management": self.management_address,
            "metrics": self.metrics_address,
        }[api]

    def exposed(self, server: tuple[str, int | None] | None) -> frozenset[Api]:
        """Return the APIs that belong where a connection came in; none if that is not configured.

        `server` is ASGI's: host and port, or the path of a Unix socket and None, or None for a Unix socket
        whose path the server does not tell, as hypercorn: that is no question while there is only one.
        A host decides only between addresses of one port, since a launcher may listen on others than these.
        """
        if server is None:
            near = [api for api in self.apis if self.address(api).path]
            return frozenset(near if len({self.address(api) for api in near}) == 1 else ())
        host, port = server
        if port is None:
            return frozenset(api for api in self.apis if self.address(api) == Address("", 0, "unix", host))
        near = [api for api in self.apis if self.address(api).port == port]
        return frozenset([api for api in near if self.address(api).answers_for(host)] or near)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect to any of the APIs."""
        return all(self.address(api).is_loopback for api in self.apis)

    @property
    def tokens(self) -> bool:
        """Whether clients of the inference and management APIs must show a token."""
        if self.disable_token_authorization is None:
            return not self.is_local
        return not self.disable_token_authorization
