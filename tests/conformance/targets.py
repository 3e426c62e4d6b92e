"""A Target is a server of one kind that cases run against, set for one suite at a time.

Variables of a target, for `$name` in cases: `store`, its directory of archives; `inference`, `management` and
`metrics`, its ports; `inference_key`, `management_key` and `api_key`, its tokens if it wants them.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.conformance import recipes
from tests.conformance.judge import Response, judge
from tests.servers import PATIENCE, Server, free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.conformance.case import Case, Step, Suite

KINDS = ("serve", "hypercorn", "torchserve")
TRIES = {"torchserve": 3}  # now and then a job of it lies in a queue until its time is over


class TorchServe(Server):
    """TorchServe, as installed in the virtual environment TORCHSERVE."""

    def __init__(self, *arguments: Any, **settings: object) -> None:
        names = ("grpc_inference_port", "grpc_management_port", "initial_worker_port")
        super().__init__(*arguments, **settings, **dict(zip(names, free_ports(3), strict=True)))

    def command(self) -> list[str]:
        head = Path(os.environ["TORCHSERVE"], "bin")
        scratch = self.directory / "tmp"
        scratch.mkdir()
        environ = {"PATH": f"{head}:{os.environ['PATH']}", "TMPDIR": scratch, "TEMP": scratch}
        environ |= {"LOG_LOCATION": self.directory, "METRICS_LOCATION": self.directory}
        command = ["env", *(f"{key}={value}" for key, value in environ.items()), str(head / "torchserve")]
        return [*command, "--start", "--foreground", "--ncs"]

    def ready(self) -> str:
        return f"Metrics API bind to: http://127.0.0.1:{self.ports['metrics']}"

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)  # what was started starts Java, and tells it nothing
        super().__exit__()


class Target:
    """A running server that plays cases."""

    def __init__(self, server: Server, store: Path) -> None:
        self.kind = server.kind
        self._server = server
        self._store = store
        self._suite: Suite | None = None
        self._kept: set[str] = set()

    @property
    def is_torchserve(self) -> bool:
        return self.kind == "torchserve"

    def play(self, suite: Suite, case: Case) -> list[str]:
        """Return what is not as expected, a line each with the response it was seen in."""
        for _ in range(TRIES.get(self.kind, 1)):
            self._set(suite)
            with self._archives(case.archives):
                try:
                    problems = self._steps(case)
                finally:
                    self._unregister_all(self._kept)
            if not problems:
                break
            self._suite = None  # the next try starts afresh
        return problems

    def _steps(self, case: Case) -> list[str]:
        for archive in case.register:
            self._register(archive)
        return [problem for step in case.steps for problem in self._step(step)]

    def _step(self, step: Step) -> list[str]:
        variables = self._variables()
        response = self._send(
            step.method, step.api, _filled(step.path, variables), _filled(step.headers, variables), step.body
        )
        expected = _filled(step.expected_of(torchserve=self.is_torchserve), variables)
        return [f"{step.method} {step.path}: {each}\n{response}" for each in judge(expected, response)]

    def _set(self, suite: Suite) -> None:
        if self._suite is suite:
            return
        self._unregister_all(set())
        for name, recipe in suite.archives.items():
            recipes.write(self._store, name, recipe)
        for archive in suite.register:
            self._register(archive)
        self._suite, self._kept = suite, self._registered()

    @contextlib.contextmanager
    def _archives(self, wanted: Mapping[str, Any]) -> Iterator[None]:
        for name, recipe in wanted.items():
            recipes.write(self._store, name, recipe)
        try:
            yield
        finally:
            for name in wanted:
                recipes.remove(self._store / name)

    def _register(self, archive: str) -> None:
        response = self._manage("POST", f"/workflows?url={archive}")
        assert response.status == 200, f"{archive}: {response}"

    def _registered(self) -> set[str]:
        listed = json.loads(self._manage("GET", "/workflows").body)
        return {each["workflowName"] for each in listed["workflows"]}

    def _unregister_all(self, kept: set[str]) -> None:
        for name in self._registered() - kept:
            self._manage("DELETE", f"/workflows/{quote(name)}")

    def _manage(self, method: str, path: str) -> Response:
        key = self._keys().get("management_key")
        return self._send(method, "management", path, {"Authorization": f"Bearer {key}"} if key else {})

    def _keys(self) -> dict[str, str]:
        file = self._server.directory / "key_file.json"
        keys = json.loads(file.read_text()) if file.exists() else {}
        return {f"{name.lower()}_key": value["key"] for name, value in keys.items()}

    def _variables(self) -> dict[str, str]:
        ports = {api: str(port) for api, port in self._server.ports.items()}
        return {"store": str(self._store), **ports, **self._keys()}

    def _send(
        self,
        method: str,
        api: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | Sequence[bytes] = b"",
    ) -> Response:
        """Send exactly these headers, and those that a request cannot do without."""
        connection = http.client.HTTPConnection("127.0.0.1", self._server.ports[api], timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
            chunked = not isinstance(body, bytes)
            length = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))}
            for name, value in (length | dict(headers)).items():
                connection.putheader(name, value)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # an answer can come before
                connection.endheaders(body or None, encode_chunked=chunked)
            return _received(connection.getresponse())


def _received(answer: http.client.HTTPResponse) -> Response:
    return Response(answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read())


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    """Fill the variables into every string of `value`; a `$` before anything else stands for itself."""
    if isinstance(value, str):
        return Template(value).safe_substitute(variables)
    if isinstance(value, dict):
        return {key: _filled(each, variables) for key, each in value.items()}
    return [_filled(each, variables) for each in value] if isinstance(value, list) else value


@contextlib.contextmanager
def running(kind: str, directory: Path, properties: Mapping[str, str]) -> Iterator[Target]:
    """Run a server of `kind` while the block runs."""
    store = directory / "store"
    store.mkdir()
    server = (TorchServe if kind == "torchserve" else Server)(directory, store, kind, **properties)
    with server:
        yield Target(server, store)
