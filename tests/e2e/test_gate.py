"""What a client needs to be let in, on both servers: tokens, origins, TLS, Unix sockets."""

import json
import signal
import socket
import ssl
import stat
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from h2.connection import H2Connection
from h2.events import StreamEnded

from tests.archives import chain, pack
from tests.servers import HEAD, PATIENCE, Server

FAILED = "failed. Token either incorrect, expired, or not provided correctly"
ORIGIN = "https://a.example"
CORS = {
    "access-control-allow-origin": ORIGIN,
    "access-control-allow-methods": "GET, POST",
    "access-control-allow-headers": "X-Custom",
}
TOKENS_AND_CORS = {
    "disable_token_authorization": "false",
    "cors_allowed_origin": ORIGIN,
    "cors_allowed_methods": "GET, POST",
    "cors_allowed_headers": "X-Custom",
    "number_of_netty_threads": 4,
}


@pytest.fixture(scope="module", params=["serve", "hypercorn"])
def closed(request, tmp_path_factory, store):
    """A server that wants tokens."""
    with Server(tmp_path_factory.mktemp("closed"), store, request.param, **TOKENS_AND_CORS) as running:
        registered = running.call(
            "POST", "/workflows", params={"url": "upper.war"}, headers=bearer(running, "management")
        )
        assert registered.status_code == 200, registered.text
        yield running


def key_file(server):
    return server.directory / "key_file.json"


def key(server, name):
    return json.loads(key_file(server).read_bytes())[name]["key"]


def bearer(server, name):
    return {"authorization": f"Bearer {key(server, name)}"}


def refused(response, what="Authorization"):
    """Whether a response is the refusal of a token."""
    assert response.headers["x-request-id"]
    assert response.headers["connection"] == "close"
    body = {"code": 400, "type": "InvalidKeyException", "message": f"Token {what} {FAILED}"}
    return (response.status_code, response.json()) == (400, body)


def test_what_needs_which_key(closed):
    paths = {
        "inference": ["/ping", "/wfpredict/upper", "/WfPredict/upper", "/predictions/upper__echo", "/none"],
        "management": ["/workflows", "/workflows/upper", "/models", "/none"],
    }
    for api, needing in paths.items():
        other = "management" if api == "inference" else "inference"
        for path in needing:
            assert refused(closed.call("GET", path, api))
            assert refused(closed.call("GET", path, api, headers=bearer(closed, other)))
            assert refused(closed.call("GET", path, api, headers=bearer(closed, "API")))
            admitted = closed.call("GET", path, api, headers=bearer(closed, api))
            assert admitted.status_code == (404 if path == "/none" else 200), path
    assert closed.call("GET", "/metrics", "metrics").status_code == 200


@pytest.mark.parametrize("api", ["inference", "management"])
def test_the_description_needs_no_key(closed, api):
    assert closed.call("OPTIONS", "/", api).status_code == 200
    assert closed.call("GET", "/api-description", api).status_code == 200


def test_the_key_file_is_the_owners_and_the_log_has_no_keys(closed):
    assert stat.S_IMODE(key_file(closed).stat().st_mode) == 0o600
    assert str(key_file(closed)) in closed.log
    assert not any(key(closed, name) in closed.log for name in ("management", "inference", "API"))


@pytest.mark.parametrize("name", ["management", "inference"])
def test_a_new_key(closed, name):
    before = bearer(closed, name)
    path = "/ping" if name == "inference" else "/workflows"
    made = closed.call("GET", "/token", params={"type": name}, headers=bearer(closed, "API"))
    assert (made.status_code, made.content) == (200, b"\n")
    assert made.headers["content-type"] == "application/json"
    assert refused(closed.call("GET", path, name, headers=before))
    assert closed.call("GET", path, name, headers=bearer(closed, name)).status_code == 200
    assert stat.S_IMODE(key_file(closed).stat().st_mode) == 0o600


@pytest.mark.parametrize("query", [{}, {"type": "API"}, {"type": "Inference"}, {"type": "token"}])
def test_no_new_key_of_another_kind(closed, query):
    before = key_file(closed).read_bytes()
    assert refused(
        closed.call("POST", "/token", params=query, headers=bearer(closed, "API")), "Authentication"
    )
    assert key_file(closed).read_bytes() == before


@pytest.mark.parametrize("name", ["management", "inference", None])
def test_new_keys_are_made_for_the_key_for_keys_alone(closed, name):
    before = key_file(closed).read_bytes()
    headers = bearer(closed, name) if name else {}
    assert refused(
        closed.call("GET", "/token", params={"type": "inference"}, headers=headers), "Authentication"
    )
    assert key_file(closed).read_bytes() == before


def test_a_page_of_another_origin_is_refused_with_a_key_too(closed):
    headers = bearer(closed, "management")
    foreign = closed.call("GET", "/workflows", headers=headers | {"origin": "https://evil.example"})
    assert foreign.status_code == 403
    rebound = closed.call("GET", "/workflows", headers=headers | {"host": "evil.example"})
    assert rebound.status_code == 403
    assert closed.call("GET", "/workflows", headers=headers | {"origin": ORIGIN}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "api", "status"),
    [
        ("GET", "/ping", "inference", 200),
        ("POST", "/wfpredict/upper", "inference", 200),
        ("POST", "/wfpredict/none", "inference", 404),
        ("GET", "/none", "inference", 404),
        ("GET", "/workflows/none", "management", 404),
        ("PATCH", "/workflows", "management", 405),
        ("GET", "/metrics", "metrics", 200),
    ],
)
def test_cors_headers_are_on_every_response(closed, method, path, api, status):
    headers = bearer(closed, api) if api != "metrics" else {}
    for given in (headers, {}):
        response = closed.call(method, path, api, headers=given)
        assert response.status_code in (status, 400)
        assert CORS.items() <= dict(response.headers).items()
    assert closed.call(method, path, api, headers=headers).status_code == status


@pytest.mark.parametrize(("path", "api"), [("/wfpredict/upper", "inference"), ("/workflows", "management")])
def test_a_preflight_carries_no_token_and_runs_nothing(closed, path, api):
    asked = {"origin": ORIGIN, "access-control-request-method": "POST"}
    response = closed.call("OPTIONS", path, api, headers=asked)
    assert (response.status_code, response.content) == (200, b"")
    assert CORS.items() <= dict(response.headers).items()
    assert refused(closed.call("OPTIONS", path, api, headers={"origin": ORIGIN}))


def test_what_has_no_effect_is_named_once(closed):
    assert closed.log.count("number_of_netty_threads") == 1


def test_nothing_of_this_by_default(server):
    response = server.call("GET", "/ping", "inference", headers={"origin": ORIGIN})
    assert response.status_code == 200
    assert not any(name.startswith("access-control") for name in response.headers)
    renewal = server.call("GET", "/token", params={"type": "inference"})
    assert (renewal.status_code, renewal.json()["type"]) == (404, "ResourceNotFoundException")


@pytest.mark.parametrize("kind", ["serve", "hypercorn"])
def test_the_key_file_goes_with_the_server_and_keys_expire(tmp_path, store, kind):
    settings = {"disable_token_authorization": "false", "token_expiration_min": 0}
    with Server(tmp_path, store, kind, **settings) as server:
        assert refused(server.call("GET", "/ping", "inference", headers=bearer(server, "inference")))
        assert refused(server.call("GET", "/workflows", headers=bearer(server, "management")))
        renewal = server.call("GET", "/token", params={"type": "inference"}, headers=bearer(server, "API"))
        assert renewal.status_code == 200
        server.stop()
        assert not key_file(server).exists()


def test_a_key_file_that_cannot_be_written_is_one_line(tmp_path, store):
    (tmp_path / "key_file.json").mkdir()
    server = Server(tmp_path, store, disable_token_authorization="false")
    with pytest.raises(AssertionError, match=r"wfserve: cannot write the key file .*key_file\.json"):
        server.__enter__()
    assert "Traceback" not in server.log


def own_address():
    """An address of this machine that is not loopback's, None if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return probe.getsockname()[0]


def test_hypercorn_beyond_the_configured_loopback_wants_tokens(tmp_path, store):
    if (host := own_address()) is None:
        pytest.skip("this machine has no other address than loopback")
    server = Server(tmp_path, store, "hypercorn")
    binds = [part for port in server.ports.values() for part in ("-b", f"0.0.0.0:{port}")]
    server.command = lambda: [str(HEAD / "hypercorn"), "-k", "trio", *binds, "wfserve.asgi:app"]
    with server:
        server.register("upper.war")
        outside = f"http://{host}:{server.ports['management']}/workflows"
        assert refused(server.client.get(outside))
        assert refused(server.client.post(f"http://{host}:{server.ports['inference']}/wfpredict/upper"))
        admitted = server.client.get(outside, headers=bearer(server, "management"))
        assert admitted.status_code == 200
        assert server.call("GET", "/workflows").status_code == 200


def trusting(server, api, **more):
    """A client that trusts the certificate that `api` shows, and nobody else's."""
    shown = ssl.get_server_certificate(("127.0.0.1", server.ports[api]))
    return httpx.Client(
        verify=ssl.create_default_context(cadata=shown), trust_env=False, timeout=PATIENCE, **more
    )


class SecureServer(Server):
    """A server with TLS on the inference and metrics ports."""

    def __init__(self, directory, store, **settings):
        super().__init__(directory, store, "serve", **settings)
        text = self.config.read_text()
        for api in ("inference", "metrics"):
            text = text.replace(f"{api}_address=http:", f"{api}_address=https:")
        self.config.write_text(text)

    def secure_url(self, api, path):
        return self.url(api, path).replace("http:", "https:")


@pytest.fixture(scope="module")
def secure(tmp_path_factory, store):
    """A server with a self-signed certificate."""
    with SecureServer(tmp_path_factory.mktemp("secure"), store) as running:
        running.register("upper.war")
        yield running


def test_tls_beside_plain_addresses(secure):
    with trusting(secure, "inference") as client:
        answer = client.post(secure.secure_url("inference", "/wfpredict/upper"), content=b"abc")
        assert (answer.status_code, answer.text) == (200, "ABC")
        missing = client.post(secure.secure_url("inference", "/wfpredict/none"), content=b"abc")
        assert (missing.status_code, missing.json()["type"]) == (404, "WorkflowNotFoundException")
        assert client.get(secure.secure_url("inference", "/ping")).status_code == 200
        assert client.get(secure.secure_url("metrics", "/metrics")).status_code == 200
    assert secure.call("GET", "/workflows").status_code == 200


def test_http2_is_not_offered(secure):
    with trusting(secure, "inference", http2=True) as client:
        assert client.get(secure.secure_url("inference", "/ping")).http_version == "HTTP/1.1"


def test_a_connection_that_fails_ends_alone(secure):
    """A client that speaks HTTP/2 all the same, and goes on with a request that has been answered."""
    h2 = H2Connection()
    h2.initiate_connection()
    path = "/wfpredict/none"
    pseudo = [(":method", "POST"), (":path", path), (":scheme", "https"), (":authority", "localhost")]
    h2.send_headers(1, [*pseudo, ("content-length", "3")])
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    address = "127.0.0.1", secure.ports["inference"]
    with socket.create_connection(address, PATIENCE) as plain, context.wrap_socket(plain) as client:
        client.sendall(h2.data_to_send())
        while not any(isinstance(event, StreamEnded) for event in h2.receive_data(client.recv(65536))):
            pass
        h2.send_data(1, b"abc", end_stream=True)
        client.sendall(h2.data_to_send())
        secure.wait_for("a connection has failed")
    with trusting(secure, "inference") as client:
        assert client.get(secure.secure_url("inference", "/ping")).status_code == 200


def test_a_certificate_that_nobody_vouches_for_is_not_trusted_by_itself(secure):
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        httpx.get(secure.secure_url("inference", "/ping"), trust_env=False)


def test_plain_http_on_a_port_with_tls_is_told_so(secure):
    response = secure.call("GET", "/ping", "inference")
    assert response.status_code == 403
    assert response.json() == {"status": "This TorchServe instance only accepts HTTPS requests"}


def wait_for_file(path):
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


HELD = """
import pathlib, time

def hold(data, context):
    if data is None:
        return None
    begun = pathlib.Path(bytes(data[0]["body"]).decode())
    begun.touch()
    while not begun.with_suffix(".go").exists():
        time.sleep(0.01)
    return ["held"]
"""


def test_a_stop_waits_for_requests_that_came_by_tls(tmp_path):
    pack(tmp_path, "held", chain("hold"), HELD)
    with SecureServer(tmp_path, tmp_path) as server:
        server.register("held.war")
        begun = tmp_path / "begun"
        with trusting(server, "inference") as client, ThreadPoolExecutor() as pool:
            url = server.secure_url("inference", "/wfpredict/held")
            answer = pool.submit(client.post, url, content=str(begun).encode())
            wait_for_file(begun)
            server.process.send_signal(signal.SIGTERM)
            server.wait_for("SIGTERM: stopping")
            begun.with_suffix(".go").touch()
            assert answer.result(PATIENCE).text == "held"
        assert server.process.wait(PATIENCE) == 0
        assert "Traceback" not in server.log


class UnixServer(Server):
    """A server with inference and management on one Unix socket."""

    def __init__(self, directory, store, kind, **settings):
        self.path = directory / "wfserve.sock"
        shared = {f"{api}_address": f"unix:{self.path}" for api in ("inference", "management")}
        super().__init__(directory, store, kind, **shared, **settings)

    def command(self):
        if self.kind == "serve":
            return super().command()
        binds = ["-b", f"unix:{self.path}", "-b", f"127.0.0.1:{self.ports['metrics']}"]
        return [str(HEAD / "hypercorn"), "-k", "trio", *binds, "wfserve.asgi:app"]

    def connected(self):
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.path)), base_url="http://socket", timeout=PATIENCE
        )


@pytest.mark.parametrize("kind", ["serve", "hypercorn"])
def test_a_unix_socket_carries_what_is_configured_there(tmp_path, store, kind):
    with UnixServer(tmp_path, store, kind) as server, server.connected() as client:
        assert client.post("/workflows", params={"url": "upper.war"}).status_code == 200
        assert client.post("/wfpredict/upper", content=b"abc").text == "ABC"
        assert client.get("/ping").status_code == 200
        assert client.get("/metrics").status_code == 404


@pytest.mark.parametrize("kind", ["serve", "hypercorn"])
def test_tokens_are_wanted_there_if_they_are_on(tmp_path, store, kind):
    server = UnixServer(tmp_path, store, kind, disable_token_authorization="false")
    with server, server.connected() as client:
        assert refused(client.get("/workflows"))
        assert refused(client.get("/ping"))
        assert refused(client.get("/workflows", headers=bearer(server, "inference")))
        assert client.get("/workflows", headers=bearer(server, "management")).status_code == 200
        assert refused(client.get("/ping", headers=bearer(server, "management")))
        assert client.get("/ping", headers=bearer(server, "inference")).status_code == 200


def test_the_file_of_a_unix_socket(tmp_path, store):
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / "wfserve.sock"))  # left behind
    with UnixServer(tmp_path, store, "serve") as server:
        assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
        second = UnixServer(tmp_path, store, "serve", state_dir=tmp_path / "other")
        with pytest.raises(AssertionError, match="another server listens there"):
            second.__enter__()
        with server.connected() as client:
            assert client.get("/ping").status_code == 200
        assert server.stop() == 0
        assert not server.path.exists()
