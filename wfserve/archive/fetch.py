"""A Fetcher hands out archives of the stores and downloads the rest, only from where its policy allows.

A client chooses the URL, so without `allowed_urls` that name it, every hop of a download must be a public
address (no loopback, private, link-local or metadata service), and `file:` must stay inside the stores.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast
from urllib.parse import unquote, urlsplit

import trio

from wfserve.archive.address import RefusedAddressError, Resolver, public_addresses, resolve
from wfserve.errors import (
    ConfigError,
    DownloadArchiveError,
    ModelNotFoundError,
    NotFoundError,
    TooLargeError,
    WorkflowNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator

    import httpx

log = logging.getLogger(__name__)

GIB = 1 << 30
CHUNK = 1 << 20  # bytes
MAX_REDIRECTS = 5
MAX_URL = 4096  # characters
DEFAULT_PATTERN = "file://.*|http(s)?://.*"  # TorchServe's default: allows all, names nothing
_URL = re.compile(r"(https?://|file:)", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """What may be fetched, and how much of it."""

    allowed_urls: tuple[str, ...] = ()  # regular expressions that match a whole URL, ignoring case
    max_download_bytes: int = 16 * GIB
    timeout: float = 120.0  # seconds without progress: to connect, or between two reads
    total_timeout: float = 3600.0  # seconds for one download, all hops together
    stores: tuple[Path, ...] = ()  # where `file:` URLs may point


class Fetched(NamedTuple):
    """An archive on disk; one that was downloaded is the caller's to delete."""

    path: Path
    downloaded: bool


class _Kind(NamedTuple):
    """The words and errors of one kind of archive."""

    title: str
    not_found: type[NotFoundError]
    missing: str  # what to say of a name that the store does not have
    directories: bool

    def accepts(self, path: Path) -> bool:
        return path.is_file() or (self.directories and path.is_dir())


_WORKFLOW = _Kind("Workflow", WorkflowNotFoundError, "Workflow not found in workflow store", False)
_MODEL = _Kind("Model", ModelNotFoundError, "Model not found at", True)


class RefusedError(Exception):
    """Why a download failed, for the log; the client sees `DownloadArchiveError`."""


class Fetcher:
    """Fetches archives; downloads go to the directory `into`, by default the system's temporary one."""

    def __init__(self, policy: FetchPolicy, into: Path | None = None, resolver: Resolver = resolve) -> None:
        """Raises `ConfigError` if an allowed URL is no regular expression."""
        self._policy = policy
        self._into = into
        self._resolver = resolver
        self._allowed = [_compiled(pattern) for pattern in policy.allowed_urls]
        self._naming = [_compiled(pattern) for pattern in policy.allowed_urls if pattern != DEFAULT_PATTERN]

    def within(self, directory: Path) -> Fetcher:
        """Return a fetcher of the same policy that downloads to `directory`."""
        return Fetcher(self._policy, directory, self._resolver)

    async def workflow(self, url: str, store: Path | None, sha256: str = "") -> Fetched:
        """Return the workflow archive at `url`, which is a URL or the name of a file in `store`.

        Unless it is empty, `sha256` (hexadecimal digits) is what the file must have. Raises
        `WorkflowNotFoundError` if there is none or it may not be asked for, `DownloadArchiveError` with the
        reason in the log, or `TooLargeError`. A cancelled or failed download leaves no file.
        """
        return await self._fetch_exactly(_WORKFLOW, url, store, sha256)

    async def model(self, url: str, store: Path | None, sha256: str = "") -> Fetched:
        """Return the model archive at `url`, as `workflow` does; it may be a directory.

        Raises `ModelNotFoundError`, `DownloadArchiveError` or `TooLargeError`.
        """
        return await self._fetch_exactly(_MODEL, url, store, sha256)

    async def _fetch_exactly(self, kind: _Kind, url: str, store: Path | None, sha256: str) -> Fetched:
        fetched = await self._fetch(kind, url, store)
        if not sha256:
            return fetched
        try:
            with _failures_logged(url):
                await trio.to_thread.run_sync(_check_digest, fetched.path, sha256)
        except BaseException:
            if fetched.downloaded:
                os.unlink(fetched.path)
            raise
        return fetched

    async def _fetch(self, kind: _Kind, url: str, store: Path | None) -> Fetched:
        if not _URL.match(url):
            return Fetched(await trio.to_thread.run_sync(_in_store, kind, url, store), downloaded=False)
        if climbs(url):  # what a pattern matched and what is opened would differ
            raise kind.not_found(f"Relative path is not allowed in url: {url}")
        if self._allowed and not _matches(self._allowed, url):
            raise kind.not_found(f"Given URL {url} does not match any allowed URL(s)")
        if url.lower().startswith("file:"):
            return Fetched(await trio.to_thread.run_sync(self._file, kind, url), downloaded=False)
        return Fetched(await self._download(url), downloaded=True)

    def _file(self, kind: _Kind, url: str) -> Path:
        with _failures_logged(url):
            parts = urlsplit(url)
            path = Path(unquote(parts.path)).resolve()
            inside = any(path.is_relative_to(store.resolve()) for store in self._policy.stores)
            if parts.netloc not in ("", "localhost") or not (inside or _matches(self._naming, url)):
                raise RefusedError("a file outside the stores")
            if not kind.accepts(path):
                raise RefusedError("no such file")
            return path

    async def _download(self, url: str) -> Path:
        import httpx

        with _failures_logged(url, httpx.HTTPError, httpx.InvalidURL, httpx.StreamError):
            if len(url) > MAX_URL:
                raise RefusedError(f"a URL of {len(url)} characters")
            connect = partial(httpx.AsyncClient, timeout=self._policy.timeout, trust_env=False)
            with trio.fail_after(self._policy.total_timeout):
                async with await trio.to_thread.run_sync(connect) as client:  # reads the certificates
                    return await self._follow(client, httpx.URL(url), _matches(self._naming, url))

    async def _follow(self, client: httpx.AsyncClient, url: httpx.URL, is_named: bool) -> Path:
        for _ in range(MAX_REDIRECTS + 1):
            if url.scheme not in _PORTS or not url.host:
                raise RefusedError("neither http nor https, or no host")
            async with self._response(client, url, is_named) as response:
                if response.status_code == HTTPStatus.OK:
                    return await self._save(response)
                url = next_hop(url, response)
                if climbs(str(url)):
                    raise RefusedError("a relative path")
                is_named = _matches(self._naming, str(url))
        raise RefusedError(f"more than {MAX_REDIRECTS} redirects")

    @asynccontextmanager
    async def _response(
        self, client: httpx.AsyncClient, url: httpx.URL, is_named: bool
    ) -> AsyncIterator[httpx.Response]:
        request = client.build_request("GET", url, headers={"Accept-Encoding": "identity"})
        response = await (
            client.send(request, stream=True) if is_named else self._send_pinned(client, request)
        )
        try:
            yield response
        finally:
            await response.aclose()

    async def _send_pinned(self, client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
        """Send `request` to an address of its host that was checked; nothing resolves the name again."""
        import httpx

        url = request.url
        host = url.raw_host.decode("ascii")  # what TLS asks for and the certificate must name
        addresses = await public_addresses(host, url.port or _PORTS[url.scheme], self._resolver)
        request.extensions["sni_hostname"] = host  # the Host header is set already
        failures = []
        for address in addresses:
            request.url = url.copy_with(host=address)
            try:
                return await client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failures.append(f"{address}: {error or type(error).__name__}")
        raise RefusedError(f"cannot connect to {host} ({', '.join(failures)})")

    async def _save(self, response: httpx.Response) -> Path:
        left = self._policy.max_download_bytes
        if int(response.headers.get("content-length", 0)) > left:
            raise TooLargeError(f"The archive is larger than {left} bytes.")
        descriptor, name = tempfile.mkstemp(prefix="download-", dir=self._into)
        try:
            async with (
                trio.wrap_file(os.fdopen(descriptor, "wb")) as file,
                aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_raw(CHUNK))) as chunks,
            ):
                async for chunk in chunks:
                    left -= len(chunk)
                    if left < 0:
                        limit = self._policy.max_download_bytes
                        raise TooLargeError(f"The archive is larger than {limit} bytes.")
                    await file.write(chunk)
        except BaseException:
            os.unlink(name)  # at once: a checkpoint here could be cancelled again
            raise
        return Path(name)


def _check_digest(path: Path, sha256: str) -> None:
    with path.open("rb") as file:  # a directory has none, and is refused
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        raise RefusedError(f"its SHA-256 is {found}, not {sha256}")


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise ConfigError(f"allowed_urls: {pattern!r} is not a regular expression: {error}") from error


def _matches(patterns: Iterable[re.Pattern[str]], url: str) -> bool:
    return any(pattern.fullmatch(url) for pattern in patterns)


def climbs(url: str) -> bool:
    """Whether the path of `url` has a `..`, plain or encoded."""
    try:
        path = urlsplit(url).path
    except ValueError:  # brackets around what is no IPv6 address: no address either
        return False
    return ".." in unquote(path).replace("\\", "/").split("/")


def next_hop(url: httpx.URL, response: httpx.Response) -> httpx.URL:
    """Return where `response` redirects to. Raises `RefusedError` if it does not, or gives up encryption."""
    location = response.headers.get("location")
    if response.status_code not in _REDIRECTS or not location:
        raise RefusedError(f"{url.host} answered {response.status_code}")
    target = url.join(location)
    if url.scheme == "https" and target.scheme == "http":
        raise RefusedError(f"{url.host} redirects from https to http")
    return target


@contextmanager
def _failures_logged(url: str, *failures: type[Exception]) -> Iterator[None]:
    """Answer every failure alike, so that the answers do not map our network for the client."""
    known: tuple[type[Exception], ...] = (
        RefusedError,
        RefusedAddressError,
        trio.TooSlowError,
        OSError,
        ValueError,
        *failures,
    )
    try:
        yield
    except known as error:
        log.warning("a download failed: %s", str(error) or type(error).__name__)
        raise DownloadArchiveError(f"Failed to download archive from: {url}") from error


def _in_store(kind: _Kind, url: str, store: Path | None) -> Path:
    if store is None:
        raise kind.not_found(f"{kind.title} store has not been configured.")
    if ".." in url:
        raise kind.not_found(f"Relative path is not allowed in url: {url}")
    name = re.split(r"[/\\]", url)[-1]  # whatever the path before it, as in TorchServe
    with suppress(OSError, ValueError):  # too long for a path, or with a zero byte: not there
        if name and kind.accepts(store / name):
            return store / name
        if (store / name).exists():  # an empty name is the store itself, as in TorchServe
            raise kind.not_found(f"{kind.title} not found at: {url}")
    raise kind.not_found(f"{kind.missing}: {url}")
