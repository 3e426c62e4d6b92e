"""A Client is what the command line knows of a server: its REST API, and nothing behind it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from wfserve.errors import ConfigError, WfserveError

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

PATIENCE = 300.0  # seconds
LONGEST_TIMEOUT = 7 * 24 * 3600.0  # seconds
_UNIX = "unix:"
_TOKEN = re.compile(r"[!-~]*")


class RefusedError(WfserveError):
    """The server answered with an error, or not at all; the command line exits with 1."""


def path_of(*segments: str) -> str:
    """Return a URL path of `segments`, each quoted as a whole."""
    return "/" + "/".join(quote(segment, safe="", errors="surrogateescape") for segment in segments)


def key_in(file: Path, api: str) -> str:
    """Return the key of `api`, management or inference, in a server's key_file.json. Raises `ConfigError`."""
    try:
        key = json.loads(file.read_bytes())[api]["key"]
    except OSError as error:
        raise ConfigError(f"--key-file: cannot read {file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        key = None
    if not isinstance(key, str):
        raise ConfigError(f"--key-file: {file} has no key of the {api} API")
    return key


class Access(NamedTuple):
    """What a client shows to a server, and what it wants to be shown."""

    token: str = ""  # none if it is empty
    cacert: Path | None = None  # certificates that are believed, PEM; None: those of the system
    insecure: bool = False  # any certificate is believed


class Client:
    """Calls one address. Raises `RefusedError` with the server's own message."""

    def __init__(self, server: str, timeout: float = PATIENCE, access: Access = Access()) -> None:  # noqa: B008
        if not 0 < timeout <= LONGEST_TIMEOUT:
            raise ConfigError(f"--timeout: expected a number of seconds, not {timeout:g}")
        if not server.startswith(("http://", "https://", f"{_UNIX}/")):
            raise ConfigError(f"--server: expected http(s)://host:port or unix:/path, not {server!r}")
        if not _TOKEN.fullmatch(access.token):  # which could not stand in a header
            raise ConfigError("the token has other characters than a key")
        self._server = server if server.startswith(_UNIX) else server.rstrip("/")
        self._timeout = timeout
        self._access = access

    def call(
        self,
        method: str,
        path: str,
        parameters: dict[str, str] | None = None,
        body: bytes = b"",
        content_type: str | None = None,
    ) -> Any:
        """Return the JSON answer of one call."""
        answer = self._send(method, path, parameters, body, content_type)
        try:
            return json.loads(answer)
        except (ValueError, RecursionError):
            raise self._not_ours(path) from None

    def _not_ours(self, path: str) -> RefusedError:
        return RefusedError(f"{self._server}{path} did not answer as wfserve does")

    def status(
        self,
        method: str,
        path: str,
        parameters: dict[str, str] | None = None,
        body: bytes = b"",
        content_type: str | None = None,
    ) -> dict[str, Any]:
        """Return the answer of a call that answers with a `status`."""
        answer = self.call(method, path, parameters, body, content_type)
        if not isinstance(answer, dict) or not isinstance(answer.get("status"), str):
            raise self._not_ours(path)
        return answer

    def workflow(self, name: str, version: str | None = None) -> list[dict[str, Any]]:
        """Return what the server says of a version, by default the default: a list of one; `all`: of each."""
        path = path_of("workflows", name, *([] if version is None else [version]))
        found = self.call("GET", path)
        if not isinstance(found, list) or not found or not all(isinstance(each, dict) for each in found):
            raise self._not_ours(path)
        return found

    def sample(self, name: str) -> dict[str, Any]:
        """Return what the server says of the sample of a workflow."""
        path = path_of("workflows", name, "sample")
        found = self.call("GET", path)
        if not isinstance(found, dict) or not found.keys() >= {"sample", "recording"}:
            raise self._not_ours(path)
        if not isinstance(found["sample"] or {}, dict):
            raise self._not_ours(path)
        return found

    def history(self, limit: int, workflow: str | None = None) -> list[dict[str, Any]]:
        """Return the newest changes, of one workflow or of all."""
        query = {"limit": str(limit)} | ({} if workflow is None else {"workflow": workflow})
        found = self.call("GET", "/history", query)
        changes = found.get("changes") if isinstance(found, dict) else None
        if not isinstance(changes, list) or not all(_is_change(each) for each in changes):
            raise self._not_ours("/history")
        return changes

    def send(self, method: str, path: str, body: bytes, content_type: str) -> bytes:
        """Send a body and return the answer's."""
        return self._send(method, path, None, body, content_type)

    def workflows(self) -> list[dict[str, str]]:
        """Return all registered workflows, page by page."""
        found: list[dict[str, str]] = []
        token: str | None = "0"
        while token is not None:
            page = self.call("GET", "/workflows", {"next_page_token": token})
            try:
                listed = [
                    {key: str(w[key]) for key in ("workflowName", "workflowUrl")} for w in page["workflows"]
                ]
                following = page.get("nextPageToken") if listed else None
            except (KeyError, TypeError):
                raise self._not_ours("/workflows") from None
            if following == token:  # it would never end
                raise self._not_ours("/workflows")
            found += listed
            token = following
        return found

    def _send(
        self, method: str, path: str, query: dict[str, str] | None, body: bytes, content_type: str | None
    ) -> bytes:
        import httpx  # heavy

        headers = {"content-type": content_type} if content_type else {}
        if self._access.token:
            headers["authorization"] = f"Bearer {self._access.token}"
        socket = self._server.removeprefix(_UNIX) if self._server.startswith(_UNIX) else None
        base = self._server if socket is None else "http://localhost"
        transport = httpx.HTTPTransport(verify=self._trust(), uds=socket, trust_env=False)
        try:
            with httpx.Client(transport=transport, timeout=self._timeout, trust_env=False) as client:
                response = client.request(method, base + path, params=query, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OverflowError) as error:  # of an odd address
            raise RefusedError(f"cannot reach {self._server}: {error or type(error).__name__}") from None
        if not response.is_success:
            raise RefusedError(_message(response.content) or f"status {response.status_code}")
        return response.content

    def _trust(self) -> ssl.SSLContext | bool:
        """Return how certificates are checked: not at all where there are none."""
        import ssl

        if self._access.insecure or not self._server.startswith("https://"):
            return False
        try:
            return ssl.create_default_context(cafile=self._access.cacert)
        except OSError as error:  # among them those of ssl, which have no text of the system's
            raise ConfigError(f"--cacert: cannot use {self._access.cacert}: {error.strerror}") from None


def _is_change(found: object) -> bool:
    fields = {"at", "who", "address", "what", "workflow", "outcome", "arguments"}
    return isinstance(found, dict) and found.keys() >= fields and isinstance(found["arguments"], dict)


def _message(body: bytes) -> str:
    try:
        found = json.loads(body)
        return str(found["message"] if "message" in found else found["status"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
