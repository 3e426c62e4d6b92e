"""A Server is a real process on real ports, started as a user starts it, and gone when its block ends."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx

HEAD = Path(sys.executable).parent
OURS = r"wfserve [\d.]+: inference"
READY = {"serve": OURS, "fronts": OURS, "hypercorn": r"Running on \S+:{metrics} "}
PATIENCE = 60.0  # seconds; only a hang takes as long


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Server:
    """`wfserve serve`, alone or with two front ends, or `hypercorn` with the application."""

    def __init__(self, directory: Path, store: Path, kind: str = "serve", **settings: object) -> None:
        self.kind = kind
        self.directory = directory
        self.ports = dict(zip(("inference", "management", "metrics"), free_ports(3), strict=True))
        properties = {f"{api}_address": f"http://127.0.0.1:{port}" for api, port in self.ports.items()}
        properties |= {
            "workflow_store": store,
            "model_store": store,
            "state_dir": directory / "state",
        } | settings
        if kind == "fronts":
            properties.setdefault("processes", 2)
        self.config = directory / "config.properties"
        self.config.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        self.lines: list[str] = []
        self._news = threading.Condition()

    def command(self) -> list[str]:
        if self.kind != "hypercorn":
            return [str(HEAD / "wfserve"), "serve", "--ts-config", str(self.config)]
        binds = [part for port in self.ports.values() for part in ("-b", f"127.0.0.1:{port}")]
        return [str(HEAD / "hypercorn"), "-k", "trio", *binds, "wfserve.asgi:app"]

    def ready(self) -> str:
        """Return a pattern of the line that says that requests are taken."""
        return READY[self.kind].format(**self.ports)

    def __enter__(self) -> "Server":
        environ = {key: value for key, value in os.environ.items() if not key.startswith(("TS_", "WFSERVE_"))}
        environ |= {"TS_CONFIG_FILE": str(self.config), "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            self.command(),
            cwd=self.directory,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            self.wait_for(self.ready())
        except BaseException:
            self.__exit__()
            raise
        self.client = httpx.Client(timeout=PATIENCE, trust_env=False)
        return self

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self.lines.append("the server's output has ended\n")
            self._news.notify_all()

    def wait_for(self, pattern: str) -> str:
        """Return the first line of output that matches, once there is one."""

        def found() -> str | None:
            return next((line for line in self.lines if re.search(pattern, line)), None)

        with self._news:
            assert self._news.wait_for(
                lambda: found() or (self.lines and "output has ended" in self.lines[-1]), PATIENCE
            )
            line = found()
        assert line is not None, f"no {pattern!r} in:\n{''.join(self.lines)}"
        return line

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def url(self, api: str, path: str) -> str:
        return f"http://127.0.0.1:{self.ports[api]}{path}"

    def call(self, method: str, path: str, api: str = "management", **more: object) -> httpx.Response:
        return self.client.request(method, self.url(api, path), **more)

    def register(self, archive: str) -> httpx.Response:
        response = self.call("POST", "/workflows", params={"url": archive})
        assert response.status_code == 200, response.text
        return response

    def predict(self, name: str, body: bytes = b"", **more: object) -> httpx.Response:
        return self.call("POST", f"/wfpredict/{name}", api="inference", content=body, **more)

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample of `/metrics`."""
        text = self.call("GET", "/metrics", api="metrics").text
        inner = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        sample = f"{name}{{{inner}}}" if inner else name
        return float(next(line for line in text.splitlines() if line.startswith(sample + " ")).split()[-1])

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def descendants(self) -> set[int]:
        """Process ids of everything the server has started."""
        return descendants(self.process.pid)

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(PATIENCE)
        self.process.stdout.close()
        if hasattr(self, "client"):
            self.client.close()


def descendants(pid: int) -> set[int]:
    """The processes below `pid`, however deep."""
    children: dict[int, set[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                status = (entry / "stat").read_text()
                parent = int(status.rpartition(")")[2].split()[1])
                children.setdefault(parent, set()).add(int(entry.name))
    below: set[int] = set()
    fresh = {pid}
    while fresh:
        fresh = set().union(*(children.get(each, set()) for each in fresh))
        below |= fresh
    return below


def wait_until_gone(pids: set[int], seconds: float = 10.0) -> set[int]:
    """Wait until none of `pids` lives, and return those that do all the same."""
    left = set()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(pid)
            try:
                import select

                if not select.select([fd], [], [], seconds)[0]:
                    left.add(pid)
            finally:
                os.close(fd)
    return left
