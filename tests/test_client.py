"""Whatever a server answers, a client returns what it says or raises `RefusedError`."""

import json
import socket
import threading
import time

import pytest

from tests.answers import answering
from wfserve.client import Access, Client, RefusedError, key_in, path_of
from wfserve.errors import ConfigError

NOT_OURS = "did not answer as wfserve does"
DEEP = b"[" * 100_000


def page(*names, token=None):
    found = {"workflows": [{"workflowName": name, "workflowUrl": f"{name}.war"} for name in names]}
    return json.dumps(found | ({"nextPageToken": token} if token else {})).encode()


def test_a_call_and_its_answer():
    with answering(b'{"status": "done"}') as (url, prepared):
        assert Client(url + "/").status("POST", "/workflows", {"url": "a b&c.war"}) == {"status": "done"}
    (asked,) = prepared.asked
    assert (asked.method, asked.path, asked.body) == ("POST", "/workflows?url=a+b%26c.war", b"")


def test_a_body_and_its_answer():
    with answering(b"\0\xff") as (url, prepared):
        assert Client(url).send("POST", path_of("wfpredict", "w"), b"\x80", "image/png") == b"\0\xff"
    (asked,) = prepared.asked
    assert (asked.path, asked.body, asked.headers["content-type"]) == ("/wfpredict/w", b"\x80", "image/png")


def test_all_pages():
    with answering(page("a", "b", token="2"), page("c")) as (url, prepared):
        assert [workflow["workflowName"] for workflow in Client(url).workflows()] == ["a", "b", "c"]
    assert [asked.path.rpartition("=")[2] for asked in prepared.asked] == ["0", "2"]


def test_a_page_with_nothing_is_the_last():
    """The server gives a token as long as there may be more."""
    with answering(page("a", token="1"), page(token="1")) as (url, _):
        assert len(Client(url).workflows()) == 1


def test_a_server_that_never_ends_its_list():
    with answering(page("a", token="1")) as (url, prepared):
        with pytest.raises(RefusedError, match=NOT_OURS):
            Client(url).workflows()
        assert len(prepared.asked) == 2


@pytest.mark.parametrize(
    "answer",
    [b"", b"<html>", b"\xff", DEEP, b"null", b"[]", b"3", b'"status"', b'{"status": 1}', b'{"workflows": 7}'],
)
def test_what_is_not_wfserve(answer):
    with answering(answer) as (url, _):
        client = Client(url)
        for call in (
            lambda: client.status("DELETE", "/workflows/w"),
            lambda: client.workflow("w"),
            client.workflows,
        ):
            with pytest.raises(RefusedError, match=NOT_OURS):
                call()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"code": 404, "type": "x", "message": "Workflow not found: w"}', "Workflow not found: w"),
        *((body, "status 404") for body in (b"", b"<html>", b"[]", b'{"message": ""}', DEEP, b'"message"')),
    ],
)
def test_an_error_is_the_servers_own_message(body, message):
    with answering((404, body)) as (url, _), pytest.raises(RefusedError) as caught:
        Client(url).workflow("w")
    assert caught.value.message == message


def test_a_redirection_is_no_answer():
    with answering((302, b"moved")) as (url, _), pytest.raises(RefusedError, match="status 302"):
        Client(url).send("POST", "/", b"", "text/plain")


def test_a_server_that_hangs_up():
    with answering((None, b"")) as (url, _), pytest.raises(RefusedError, match="cannot reach"):
        Client(url).workflows()


def test_a_server_that_does_not_answer_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(RefusedError, match="cannot reach"):
            Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1).workflows()
        assert time.monotonic() - began < 5


def test_a_server_that_speaks_something_else():
    with socket.create_server(("127.0.0.1", 0)) as other:

        def speak():
            connection, _ = other.accept()
            with connection:
                connection.sendall(b"220 mail.example ESMTP\r\n")
                connection.recv(1000)

        thread = threading.Thread(target=speak)
        thread.start()
        with pytest.raises(RefusedError, match="cannot reach"):
            Client(f"http://127.0.0.1:{other.getsockname()[1]}").workflows()
        thread.join()


def test_no_server():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(RefusedError, match="cannot reach"):
            Client(f"http://127.0.0.1:{unused.getsockname()[1]}").workflows()


@pytest.mark.parametrize(
    "server",
    [
        *("http://", "http://:80", "http://[", "http://[::1", "http://127.0.0.1:99999", "http://127.0.0.1:x"),
        *("http://a\nb", "http://\udcff", "http://" + "a" * 70, "http://a..b", "http://é" * 30),
    ],
)
def test_an_odd_address_cannot_be_reached(server):
    with pytest.raises(RefusedError, match="cannot reach"):
        Client(server, timeout=1).workflows()


@pytest.mark.parametrize("server", ["", "127.0.0.1:8080", "ftp://a", "HTTP//", "unix:", "unix:relative"])
def test_what_is_no_address(server):
    with pytest.raises(ConfigError, match="--server"):
        Client(server)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e30])
def test_what_is_no_timeout(timeout):
    with pytest.raises(ConfigError, match="--timeout"):
        Client("http://127.0.0.1", timeout)


def test_segments_of_a_path_are_quoted_as_a_whole():
    assert path_of("workflows", "a/b?c#d é") == "/workflows/a%2Fb%3Fc%23d%20%C3%A9"
    assert path_of("w", "\udcff") == "/w/%FF"  # what a command line had as a byte


def test_a_token_is_shown():
    with answering(b"[]") as (url, prepared):
        Client(url, access=Access("a-Key_1")).call("GET", "/")
        Client(url).call("GET", "/")
    shown = [{key.lower(): value for key, value in asked.headers.items()} for asked in prepared.asked]
    assert [each.get("authorization") for each in shown] == ["Bearer a-Key_1", None]


@pytest.mark.parametrize("token", ["a b", "a\nx-header: 1", "é", "\udcff", "\0"])
def test_what_is_no_token_is_not_told(token):
    with pytest.raises(ConfigError) as caught:
        Client("http://127.0.0.1", access=Access(token))
    assert token not in caught.value.message


def test_the_key_of_a_file(tmp_path):
    file = tmp_path / "key_file.json"
    file.write_text('{"management": {"key": "m"}, "inference": {"key": "i"}, "API": {"key": "a"}}')
    assert (key_in(file, "management"), key_in(file, "inference")) == ("m", "i")


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"[]", b'{"inference": 1}', b'{"inference": {"key": 1}}', DEEP]
)
def test_a_file_without_a_key(tmp_path, content):
    file = tmp_path / "key_file.json"
    with pytest.raises(ConfigError, match=r"--key-file: cannot read .*: No such file"):
        key_in(file, "inference")
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"--key-file: .* has no key of the inference API"):
        key_in(file, "inference")


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_certificates_that_cannot_be_used(tmp_path, content):
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"--cacert: cannot use .*ca\.pem"):
        Client("https://127.0.0.1:9", access=Access(cacert=file)).workflows()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # httpcore leaves it open
def test_no_unix_socket(tmp_path):
    with pytest.raises(RefusedError, match="cannot reach unix:/"):
        Client(f"unix:{tmp_path}/nobody").workflows()
