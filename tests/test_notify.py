"""A supervisor hears, on its own socket, when the server is ready, how it is, and when it stops."""

import os
import socket

import pytest
import trio

from tests.archives import chain, pack
from tests.servers import PATIENCE, Server
from wfserve.notify import Supervisor


@pytest.fixture(params=["path", "abstract"])
def listening(request, tmp_path):
    """A supervisor's socket and what names it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@wfserve-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(name.replace("@", "\0", 1))
        heard.settimeout(PATIENCE)
        yield heard, name


def lines(heard):
    return heard.recv(4096).decode().split("\n")


def test_words_are_one_datagram(listening):
    heard, name = listening
    Supervisor(name).tell("READY=1", "STATUS=well")
    assert lines(heard) == ["READY=1", "STATUS=well"]


def test_the_variables_are_the_servers_alone(listening):
    heard, name = listening
    environ = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "9000000", "WATCHDOG_PID": "1", "OTHER": "x"}
    Supervisor.of(environ).tell("READY=1")
    assert lines(heard) == ["READY=1"]
    assert environ == {"OTHER": "x"}


@pytest.mark.parametrize(
    "address", ["/nowhere/at/all", "@wfserve-nobody-listens", "vsock:2:1", "/" + "x" * 200]
)
def test_nobody_listens(caplog, address):
    Supervisor(address).tell("READY=1")
    assert "cannot tell the supervisor READY=1" in caplog.text


def test_a_supervisor_that_does_not_listen_holds_nothing_up(listening, caplog):
    _, name = listening
    while not caplog.records:
        Supervisor(name).tell("STATUS=" + "x" * 1000)


async def test_without_one_nothing_is_done(autojump_clock):
    supervisor = Supervisor.of({})
    supervisor.tell("READY=1")
    await supervisor.keep_told(lambda: pytest.fail("nobody asked"))


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({}, 5),
        ({"WATCHDOG_USEC": "3000000"}, 1),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 5),
        ({"WATCHDOG_USEC": "soon"}, 5),
        ({"WATCHDOG_USEC": "0"}, 5),
    ],
)
async def test_it_hears_of_every_change_and_in_time_for_its_watchdog(
    listening, autojump_clock, variables, interval
):
    heard, name = listening
    states = iter(["none", "none", "one"])
    looks = []

    def status():
        looks.append(trio.current_time())
        return next(states)

    with trio.move_on_after(2.5 * interval):
        await Supervisor.of({"NOTIFY_SOCKET": name, **variables}).keep_told(status)
    assert [each - looks[0] for each in looks] == pytest.approx([0, interval, 2 * interval])
    assert [lines(heard) for _ in looks] == [
        ["WATCHDOG=1", "STATUS=none"],
        ["WATCHDOG=1"],
        ["WATCHDOG=1", "STATUS=one"],
    ]


def test_a_server_tells_that_it_is_ready_how_it_is_and_that_it_stops(tmp_path, listening, monkeypatch):
    heard, name = listening
    pack(tmp_path, "w", chain("show"), SHOW)
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    with Server(tmp_path, tmp_path, load_workflows="w.war") as server:
        assert lines(heard) == ["READY=1"]
        while "STATUS=1 of 1 workflows are up" not in lines(heard):
            pass
        assert server.predict("w").text == "None"
        assert server.stop() == 0
        while lines(heard) != ["STOPPING=1"]:
            pass


SHOW = """
    import os

    def show(data, context):
        return data and [str(os.environ.get("NOTIFY_SOCKET"))]
"""
