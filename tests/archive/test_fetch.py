"""Archives come from the stores, or from where the policy allows; only the log says why one is refused."""

import gzip
import hashlib
import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from wfserve.archive.fetch import DEFAULT_PATTERN, Fetcher, FetchPolicy, RefusedError, next_hop
from wfserve.errors import (
    ConfigError,
    DownloadArchiveError,
    ModelNotFoundError,
    NotFoundError,
    TooLargeError,
    WfserveError,
    WorkflowNotFoundError,
)

LOOPBACK = ("http://127\\.0\\.0\\.1:.*",)
BODY = bytes(range(256)) * 20_000  # several reads


def ok(body: bytes = BODY) -> bytes:
    """Return a response whose length is declared."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def chunked(body: bytes = BODY) -> bytes:
    """Return a response whose length is known at its end."""
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def redirect(location: str) -> bytes:
    """Return a redirect."""
    return f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


class Site:
    """A loopback HTTP/1.1 server that answers each path with fixed bytes and then hangs up, or hangs."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.pages: dict[str, bytes] = {}
        self.hangs: set[str] = set()
        self.hanging = trio.Event()
        self.requests: list[bytes] = []

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """Return the URL of a page."""
        return f"http://{host}:{self.port}{path}"

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer one connection."""
        async with stream:
            request = bytearray()
            while b"\r\n\r\n" not in request:
                request += await stream.receive_some()
            self.requests.append(bytes(request))
            path = request.split(b" ")[1].decode()
            try:
                await stream.send_all(self.pages.get(path, b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"))
            except trio.BrokenResourceError:
                return  # the client has read enough
            if path in self.hangs:
                self.hanging.set()
                await trio.sleep_forever()


@asynccontextmanager
async def a_site() -> AsyncIterator[Site]:
    """Serve on a free port of the loopback interface."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        site = Site(listeners[0].socket.getsockname()[1])
        nursery.start_soon(trio.serve_listeners, site.serve, listeners)
        yield site
        nursery.cancel_scope.cancel()


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """Where downloads go."""
    (tmp_path / "downloads").mkdir()
    return tmp_path / "downloads"


@pytest.fixture
def reasons(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """Return the reasons that the log gives."""
    with caplog.at_level(logging.WARNING, "wfserve.archive.fetch"):
        yield lambda: "\n".join(record.getMessage() for record in caplog.records)


def lenient(into: Path, **policy: object) -> Fetcher:
    """Return a fetcher that may call the loopback interface."""
    return Fetcher(FetchPolicy(**{"allowed_urls": LOOPBACK, **policy}), into)  # type: ignore[arg-type]


async def refused(fetch: Awaitable[object], url: str) -> None:
    """Check that a download is refused as TorchServe refuses it."""
    with pytest.raises(DownloadArchiveError) as caught:
        await fetch
    assert caught.value.message == f"Failed to download archive from: {url}"


@pytest.mark.parametrize("url", ["w.war", "sub/w.war", "/etc/w.war", "sub\\w.war", "s3://bucket/w.war"])
async def test_a_name_is_looked_up_in_the_store(tmp_path: Path, url: str) -> None:
    (tmp_path / "w.war").touch()
    fetched = await Fetcher(FetchPolicy()).workflow(url, tmp_path)
    assert fetched == (tmp_path / "w.war", False)


LONG = "x" * 5000


@pytest.mark.parametrize(
    ("url", "workflow", "model"),
    [
        ("x.war", "Workflow not found in workflow store: x.war", "Model not found at: x.war"),
        ("", "Workflow not found at: ", "Model not found at: "),
        ("a/", "Workflow not found at: a/", "Model not found at: a/"),
        ("a\0b", "Workflow not found in workflow store: a\0b", "Model not found at: a\0b"),
        (LONG, f"Workflow not found in workflow store: {LONG}", f"Model not found at: {LONG}"),
        ("socket", "Workflow not found at: socket", "Model not found at: socket"),
    ],
)
async def test_names_that_the_store_does_not_have(
    tmp_path: Path, url: str, workflow: str, model: str
) -> None:
    with socket.socket(socket.AF_UNIX) as odd:
        odd.bind(str(tmp_path / "socket"))
        with pytest.raises(WorkflowNotFoundError) as no_workflow:
            await Fetcher(FetchPolicy()).workflow(url, tmp_path)
        with pytest.raises(ModelNotFoundError) as no_model:
            await Fetcher(FetchPolicy()).model(url, tmp_path)
    assert (no_workflow.value.message, no_model.value.message) == (workflow, model)


async def test_a_directory_may_be_a_model_but_no_workflow(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert (await Fetcher(FetchPolicy()).model("m", tmp_path)).path == tmp_path / "m"
    with pytest.raises(WorkflowNotFoundError, match="Workflow not found at: m"):
        await Fetcher(FetchPolicy()).workflow("m", tmp_path)


@pytest.mark.parametrize("url", ["../w.war", "a/../w.war", "..", "a..war"])
async def test_relative_paths(tmp_path: Path, url: str) -> None:
    for fetch in (Fetcher(FetchPolicy()).workflow, Fetcher(FetchPolicy()).model):
        with pytest.raises(NotFoundError) as caught:
            await fetch(url, tmp_path)
        assert caught.value.message == f"Relative path is not allowed in url: {url}"


async def test_no_store() -> None:
    with pytest.raises(WorkflowNotFoundError, match=r"Workflow store has not been configured\."):
        await Fetcher(FetchPolicy()).workflow("w.war", None)
    with pytest.raises(ModelNotFoundError, match=r"Model store has not been configured\."):
        await Fetcher(FetchPolicy()).model("m.mar", None)


async def test_urls_that_do_not_match_are_not_found() -> None:
    fetcher = Fetcher(FetchPolicy(allowed_urls=("https://good\\.test/.*",)))
    for url in ("http://evil.test/w.war", "https://good.test.evil.test/", "file:///etc/passwd"):
        with pytest.raises(WorkflowNotFoundError) as caught:
            await fetcher.workflow(url, None)
        assert caught.value.message == f"Given URL {url} does not match any allowed URL(s)"


def test_an_allowed_url_must_be_a_pattern() -> None:
    with pytest.raises(ConfigError, match="allowed_urls"):
        Fetcher(FetchPolicy(allowed_urls=("https://(",)))


async def test_a_download(into: Path) -> None:
    async with a_site() as site:
        site.pages["/w.war"] = ok()
        fetched = await lenient(into).workflow(site.url("/w.war"), None)
        assert fetched.downloaded
        assert fetched.path.parent == into
        assert fetched.path.read_bytes() == BODY


DIGEST = hashlib.sha256(b"w").hexdigest()


@pytest.mark.parametrize("digest", [DIGEST, DIGEST.upper()])
async def test_an_archive_with_the_digest_that_it_must_have(tmp_path: Path, into: Path, digest: str) -> None:
    (tmp_path / "w.war").write_bytes(b"w")
    assert (await Fetcher(FetchPolicy()).model("w.war", tmp_path, digest)).path == tmp_path / "w.war"
    async with a_site() as site:
        site.pages["/w.war"] = ok(b"w")
        assert (await lenient(into).workflow(site.url("/w.war"), None, digest)).downloaded


async def test_an_archive_with_another_digest_is_refused(
    tmp_path: Path, into: Path, reasons: Callable[[], str]
) -> None:
    (tmp_path / "w.war").write_bytes(b"v")
    await refused(Fetcher(FetchPolicy()).workflow("w.war", tmp_path, DIGEST), "w.war")
    assert (tmp_path / "w.war").exists()
    async with a_site() as site:
        site.pages["/w.war"] = ok(b"v")
        await refused(lenient(into).workflow(site.url("/w.war"), None, DIGEST), site.url("/w.war"))
    assert os.listdir(into) == []
    assert reasons().count(f"not {DIGEST}") == 2


async def test_a_directory_has_no_digest(tmp_path: Path, reasons: Callable[[], str]) -> None:
    (tmp_path / "m").mkdir()
    await refused(Fetcher(FetchPolicy()).model("m", tmp_path, DIGEST), "m")
    assert "Is a directory" in reasons()


async def test_a_name_matches_in_any_case(into: Path) -> None:
    async with a_site() as site:
        site.pages["/w.war"] = ok(b"w")
        assert (
            await lenient(into).model(site.url("/w.war").upper().replace("W.WAR", "w.war"), None)
        ).downloaded


async def test_within_sets_the_directory(into: Path, tmp_path: Path) -> None:
    async with a_site() as site:
        site.pages["/w.war"] = ok(b"w")
        fetched = await lenient(tmp_path).within(into).model(site.url("/w.war"), None)
        assert fetched.path.parent == into


@pytest.mark.parametrize("allowed", [(), (DEFAULT_PATTERN,)])
async def test_without_being_named_loopback_is_refused(
    into: Path, allowed: tuple[str, ...], reasons: Callable[[], str]
) -> None:
    async with a_site() as site:
        site.pages["/w.war"] = ok()
        fetcher = Fetcher(FetchPolicy(allowed_urls=allowed), into)
        for host in ("127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]"):
            url = site.url("/w.war", host)
            await refused(fetcher.workflow(url, None), url)
        assert site.requests == []
        assert reasons().count("not a public address") == 4
    assert os.listdir(into) == []


async def test_a_name_server_cannot_lead_us_inside(into: Path, reasons: Callable[[], str]) -> None:
    async def inside(host: str, port: int) -> list[str]:
        return ["1.1.1.1", "169.254.169.254"]

    await refused(
        Fetcher(FetchPolicy(), into, inside).model("http://a.test/m.mar", None), "http://a.test/m.mar"
    )
    assert "a.test is 169.254.169.254" in reasons()


async def test_the_address_that_was_checked_is_the_one_called(
    into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    async def resolver(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["127.0.0.1"]

    monkeypatch.setattr("wfserve.archive.address.is_public", lambda address: address == "127.0.0.1")
    async with a_site() as site:
        site.pages["/w.war"] = redirect("/real.war")
        site.pages["/real.war"] = ok()
        fetched = await Fetcher(FetchPolicy(), into, resolver).workflow(
            site.url("/w.war", "archive.test"), None
        )
        assert fetched.path.read_bytes() == BODY
        assert asked == [("archive.test", site.port)] * 2  # each hop is checked, and nothing else resolves
        host = f"host: archive.test:{site.port}".encode()
        assert all(host in request.lower() for request in site.requests)


async def test_a_dead_address_is_passed_over(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolver(host: str, port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    monkeypatch.setattr("wfserve.archive.address.is_public", lambda address: True)
    async with a_site() as site:
        site.pages["/w.war"] = ok(b"w")
        fetcher = Fetcher(FetchPolicy(), into, resolver)
        assert (await fetcher.workflow(site.url("/w.war", "archive.test"), None)).path.read_bytes() == b"w"


def set_proxy(monkeypatch: pytest.MonkeyPatch, variable: str, proxy: Site) -> None:
    """Make `variable` name the proxy of every address."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv(variable, proxy.url(""))


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("allowed", [(), LOOPBACK])
async def test_no_proxy_comes_between(
    into: Path, monkeypatch: pytest.MonkeyPatch, allowed: tuple[str, ...], variable: str
) -> None:
    monkeypatch.setattr("wfserve.archive.address.is_public", lambda address: address == "127.0.0.1")
    async with a_site() as site, a_site() as proxy:
        set_proxy(monkeypatch, variable, proxy)
        site.pages["/w.war"] = ok()
        fetched = await lenient(into, allowed_urls=allowed).workflow(site.url("/w.war"), None)
        assert fetched.path.read_bytes() == BODY
        assert (len(site.requests), proxy.requests) == (1, [])


@pytest.mark.parametrize("variable", ["https_proxy", "HTTPS_PROXY"])
async def test_no_proxy_is_asked_for_a_tunnel(
    into: Path, monkeypatch: pytest.MonkeyPatch, reasons: Callable[[], str], variable: str
) -> None:
    monkeypatch.setattr("wfserve.archive.address.is_public", lambda address: address == "127.0.0.1")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and does not listen
        url = f"https://127.0.0.1:{deaf.getsockname()[1]}/w.war"
        async with a_site() as proxy:
            set_proxy(monkeypatch, variable, proxy)
            await refused(Fetcher(FetchPolicy(), into).workflow(url, None), url)
            assert proxy.requests == []
    assert "cannot connect to 127.0.0.1" in reasons()


async def test_a_redirect_is_a_hop_like_the_first(into: Path, reasons: Callable[[], str]) -> None:
    async with a_site() as site:
        named = (f"http://127\\.0\\.0\\.1:{site.port}/start",)
        site.pages["/start"] = redirect("/secret")
        site.pages["/secret"] = ok()
        url = site.url("/start")
        await refused(lenient(into, allowed_urls=named).workflow(url, None), url)
        assert len(site.requests) == 1
        assert "not a public address" in reasons()


@pytest.mark.parametrize(
    ("page", "reason"),
    [
        (redirect("/w.war"), "more than 5 redirects"),
        (redirect("file:///etc/passwd"), "neither http nor https"),
        (redirect("ftp://1.1.1.1/"), "neither http nor https"),
        (redirect("http://[::1"), ""),
        (b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "answered 302"),
        (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "answered 404"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nshort", ""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort", ""),
        (b"nonsense\r\n\r\n", ""),
        (b"", ""),
    ],
)
async def test_what_a_server_may_do_wrong(
    into: Path, reasons: Callable[[], str], page: bytes, reason: str
) -> None:
    async with a_site() as site:
        site.pages["/w.war"] = page
        url = site.url("/w.war")
        await refused(lenient(into).workflow(url, None), url)
        assert reason in reasons()
    assert os.listdir(into) == []


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/a", "https://a.test/a"),
        ("//b.test/c", "https://b.test/c"),
        ("https://c.test:8443/", "https://c.test:8443/"),
    ],
)
def test_where_a_redirect_leads(location: str, target: str) -> None:
    response = httpx.Response(302, headers={"location": location})
    assert str(next_hop(httpx.URL("https://a.test/w.war"), response)) == target


def test_a_redirect_may_not_give_up_encryption() -> None:
    response = httpx.Response(302, headers={"location": "http://a.test/w.war"})
    with pytest.raises(RefusedError, match="from https to http"):
        next_hop(httpx.URL("https://a.test/w.war"), response)


@pytest.mark.parametrize("page", [ok(), chunked()])
async def test_the_size_is_limited(into: Path, page: bytes) -> None:
    async with a_site() as site:
        site.pages["/w.war"] = page
        fetched = await lenient(into, max_download_bytes=len(BODY)).workflow(site.url("/w.war"), None)
        fetched.path.unlink()
        with pytest.raises(TooLargeError):
            await lenient(into, max_download_bytes=len(BODY) - 1).workflow(site.url("/w.war"), None)
    assert os.listdir(into) == []


@pytest.mark.parametrize("content", [bytes(1 << 20), b"w"])  # one shrinks a thousandfold, one grows
@pytest.mark.parametrize("page", [ok, chunked])
async def test_a_compressed_body_is_stored_and_measured_as_it_was_sent(
    into: Path, content: bytes, page: Callable[[bytes], bytes]
) -> None:
    sent = gzip.compress(content)
    async with a_site() as site:
        site.pages["/w.war"] = page(sent).replace(b"\r\n", b"\r\nContent-Encoding: gzip\r\n", 1)
        fetched = await lenient(into, max_download_bytes=len(sent)).workflow(site.url("/w.war"), None)
        assert fetched.path.read_bytes() == sent
        fetched.path.unlink()
        with pytest.raises(TooLargeError):
            await lenient(into, max_download_bytes=len(sent) - 1).workflow(site.url("/w.war"), None)
    assert os.listdir(into) == []


@pytest.mark.parametrize("policy", [{"timeout": 0.1}, {"total_timeout": 0.3}])
@pytest.mark.parametrize("sent", [b"", ok()[:-1]])
async def test_a_server_that_hangs(into: Path, policy: dict[str, float], sent: bytes) -> None:
    async with a_site() as site:
        site.pages["/w.war"] = sent
        site.hangs.add("/w.war")
        url = site.url("/w.war")
        await refused(lenient(into, **policy).workflow(url, None), url)
    assert os.listdir(into) == []


@pytest.mark.parametrize("sent", [b"", ok()[:-1]])
async def test_a_cancelled_download_leaves_no_file(into: Path, sent: bytes) -> None:
    async with a_site() as site, trio.open_nursery() as nursery:
        site.pages["/w.war"] = sent
        site.hangs.add("/w.war")
        nursery.start_soon(partial(lenient(into).workflow, site.url("/w.war"), None))
        await site.hanging.wait()
        nursery.cancel_scope.cancel()
    assert os.listdir(into) == []


@pytest.mark.parametrize(
    "url", ["http://", "http://\0/", "http://" + "x" * 300 + ".test/", "http://[::1/", "http://a:99999/", "http://é\udcff/"]
)  # fmt: skip
async def test_urls_that_are_none(into: Path, url: str) -> None:
    await refused(Fetcher(FetchPolicy(), into).workflow(url, None), url)


async def test_a_url_may_not_be_endless(into: Path) -> None:
    with pytest.raises(WfserveError):
        await lenient(into).workflow("http://127.0.0.1:1/" + "x" * 5000, None)


async def test_file_urls_stay_inside_the_stores(tmp_path: Path, reasons: Callable[[], str]) -> None:
    store = tmp_path / "store"
    store.mkdir()
    (store / "a b.war").touch()
    (tmp_path / "secret.war").touch()
    (store / "link.war").symlink_to(tmp_path / "secret.war")
    fetcher = Fetcher(FetchPolicy(stores=(store,)))
    assert await fetcher.workflow(f"file://{store}/a%20b.war", store) == (store / "a b.war", False)
    for url in (
        f"file://{tmp_path}/secret.war",
        f"FILE:{tmp_path}/secret.war",
        f"file://{store}/link.war",
        f"file://host{store}/a%20b.war",
        f"file://{store}/%00",
        "file://[",
    ):
        await refused(fetcher.workflow(url, store), url)
    assert reasons().count("a file outside the stores") == 4
    for url in (f"file://{store}/missing.war", f"file://{store}"):
        await refused(fetcher.workflow(url, store), url)


async def test_a_named_file_may_be_anywhere(tmp_path: Path) -> None:
    (tmp_path / "w.war").touch()
    fetcher = Fetcher(FetchPolicy(allowed_urls=(f"file://{tmp_path}/.*",)))
    assert (await fetcher.workflow(f"file://{tmp_path}/w.war", None)).path == tmp_path / "w.war"


@pytest.mark.parametrize(
    "url",
    [
        "file:///allowed/../secret/w.war",
        "file:///allowed/%2e%2e/secret/w.war",
        "file:///allowed/..%2Fsecret/w.war",
        "file:///allowed/%2E./secret/w.war",
        "http://127.0.0.1/allowed/../w.war",
        "http://127.0.0.1/allowed/%2e%2e/w.war",
        "http://127.0.0.1/allowed/..%5Cw.war",
    ],
)
async def test_what_a_pattern_allows_is_what_is_opened(url):
    fetcher = Fetcher(FetchPolicy(allowed_urls=(r"file:///allowed/.*", r"http://127\.0\.0\.1/allowed/.*")))
    with pytest.raises(WorkflowNotFoundError, match=re.escape(f"Relative path is not allowed in url: {url}")):
        await fetcher.workflow(url, None)
