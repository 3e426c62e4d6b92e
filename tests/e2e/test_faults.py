"""What may die does, under load, and no request, slot or process is lost for it."""

import os
import random
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.archives import chain, pack
from tests.servers import Server, wait_until_gone

GIL_HOLDER = """
import ctypes, os

def hold(data, context):
    if data is None:
        return None
    ctypes.PyDLL(None).sleep(3600)  # a C call that never gives the GIL up
"""


def test_a_function_that_sleeps_for_an_hour(server):
    for _ in range(3):
        began = time.monotonic()
        response = server.predict("impatient", b"sleep 3600")
        took = time.monotonic() - began
        assert response.status_code == 500
        assert response.json()["message"] == "Error executing obey"
        assert 1.4 <= took < 2.4
        assert server.predict("impatient", b"next").content == b"next"


def test_a_worker_that_dies_in_every_attempt(server):
    response = server.predict("obey", b"die")
    assert response.json()["message"] == "Error executing obey"
    assert server.predict("obey", b"next").content == b"next"


def test_clients_that_leave_take_their_queued_work_along(server):
    leave_behind_another(server, "/wfpredict/obey")


def leave_behind_another(server, path):
    """One request runs, others wait; those hang up, and the worker begins with none of them.

    They wait in the queue; those of another front end may have one wait at the worker.
    """
    deaths = count_of(server, "wfserve_worker_deaths_total")
    with ThreadPoolExecutor(1) as pool, ExitStack() as leaving:
        running = pool.submit(server.call, "POST", path, api="inference", content=b"sleep 2")
        wait_for_metric(server, "wfserve_node_running", 1)
        for waiting in range(1, 7):
            client = leaving.enter_context(socket.create_connection(("127.0.0.1", server.ports["inference"])))
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 8\r\n\r\n"
            client.sendall(head.encode() + b"sleep 60")
            wait_until(lambda waiting=waiting: under_way(server) == 1 + waiting)
        assert server.kind == "fronts" or count_of(server, "wfserve_node_running") == 1
        leaving.close()
        wait_for_metric(server, "wfserve_node_queued", 0)
        assert not running.done()
        assert running.result().content == b"sleep 2"
        wait_until(lambda: under_way(server) == 0)
    assert server.predict("obey", b"next").content == b"next"
    assert count_of(server, "wfserve_worker_deaths_total") == deaths  # none had to be stopped


def count_of(server, name, workflow="obey"):
    return server.metric(name, workflow=workflow, node="obey")


def under_way(server, workflow="obey"):
    return sum(count_of(server, f"wfserve_node_{name}", workflow) for name in ("queued", "running"))


def wait_until(holds):
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_metric(server, name, value, workflow="obey", node="obey"):
    deadline = time.monotonic() + 10
    while server.metric(name, workflow=workflow, node=node) != value:
        assert time.monotonic() < deadline, f"{name} never became {value}"
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ["serve", "fronts"])
def test_killing_workers_under_load_costs_no_request(tmp_path, store, kind):
    """16 clients, a worker killed twenty times: every answer is right, every slot comes back."""
    pack(
        store, "loaded", chain("echo", "upper", settings="min-workers: 1\nmax-workers: 1\nretry-attempts: 1")
    )
    with Server(tmp_path, store, kind) as server:
        server.register("loaded.war")
        slots = server.metric("wfserve_arena_slots")
        stop = threading.Event()
        answers = []

        def client(number):
            body = f"client {number}".encode()
            while not stop.is_set():
                response = server.predict("loaded", body)
                answers.append((response.status_code, response.content == body.upper(), response.text))

        with ThreadPoolExecutor(16) as pool:
            clients = [pool.submit(client, number) for number in range(16)]
            try:
                for _ in range(20):
                    wait_for_progress(answers, 30)
                    kill_a_worker(server)
            finally:
                stop.set()
        for each in clients:
            each.result()
        wrong = [answer for answer in answers if answer[:2] != (200, True)]
        assert len(answers) > 100
        assert wrong == []
        assert server.metric("wfserve_arena_slots") == slots
        for node in ("echo", "upper"):  # which share their workers
            assert server.metric("wfserve_worker_deaths_total", workflow="loaded", node=node) == 20


def wait_for_progress(answers, more):
    target, deadline = len(answers) + more, time.monotonic() + 30
    while len(answers) < target:
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.01)  # leaves the processor to the clients; what is waited for is the count


def kill_a_worker(server):
    """Kill a worker in the middle of its work, and return once another has taken its place."""
    before = worker_pids(server)
    victim = random.choice(sorted(before))
    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while len(worker_pids(server) - {victim}) < len(before):
        assert time.monotonic() < deadline, "the worker was not replaced"


def worker_pids(server):
    return {pid for pid in server.descendants() if is_worker(pid)}


def is_worker(pid):
    """Workers lead process groups of their own, as front ends do; the fork server and others do not."""
    try:
        return os.getpgid(pid) == pid and b"wfserve.front" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.parametrize("kind", ["serve", "fronts", "hypercorn"])
def test_kill_9_of_the_server_leaves_nothing(tmp_path, store, kind):
    """Even while a handler holds the GIL, even of its helpers."""
    pack(store, "holder", chain("hold", settings="timeout-ms: 100000"), GIL_HOLDER)
    with Server(tmp_path, store, kind) as server:
        server.register("holder.war")
        server.register("upper.war")
        with socket.create_connection(("127.0.0.1", server.ports["inference"])) as client:
            client.sendall(b"POST /wfpredict/holder HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nx")
            wait_for_metric(server, "wfserve_node_running", 1, "holder", "hold")
            family = server.descendants()
            assert len(family) >= 4
            server.process.kill()
            assert wait_until_gone(family) == set()


@pytest.mark.parametrize("kind", ["serve", "fronts"])
def test_sigterm_lets_accepted_requests_finish(tmp_path, store, kind):
    with Server(tmp_path, store, kind) as server, ThreadPoolExecutor(1) as pool:
        server.register("obey.war")
        slow = pool.submit(server.predict, "obey", b"sleep 1.5")
        wait_for_metric(server, "wfserve_node_running", 1)
        family = server.descendants()
        assert server.stop(signal.SIGTERM) == 0
        assert slow.result().content == b"sleep 1.5"
        assert wait_until_gone(family) == set()


@pytest.mark.parametrize("sent", [b"", b"POST /wfpredict/x HT"])
def test_a_request_that_has_not_arrived_does_not_hold_the_server(tmp_path, store, sent):
    with (
        Server(tmp_path, store) as server,
        socket.create_connection(("127.0.0.1", server.ports["inference"])) as client,
    ):
        client.sendall(sent)
        assert server.call("GET", "/ping", api="inference").status_code == 200
        began = time.monotonic()
        assert server.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 5


def test_a_request_that_never_ends_does_not_hold_the_server(tmp_path, store):
    pack(store, "endless", chain("obey", settings="timeout-ms: 100000"))
    with Server(tmp_path, store, stop_timeout=1) as server:
        server.register("endless.war")
        with socket.create_connection(("127.0.0.1", server.ports["inference"])) as client:
            client.sendall(
                b"POST /wfpredict/endless HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nsleep 999"
            )
            wait_for_metric(server, "wfserve_node_running", 1, "endless")
            family = server.descendants()
            began = time.monotonic()
            assert server.stop(signal.SIGINT) == 0
            assert time.monotonic() - began < 10
            assert wait_until_gone(family) == set()


def test_unregistering_lets_requests_finish(server, store):
    pack(store, "leaving", chain("obey"))
    server.register("leaving.war")
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(server.predict, "leaving", b"sleep 1")
        wait_for_metric(server, "wfserve_node_running", 1, "leaving")
        gone = pool.submit(server.call, "DELETE", "/workflows/leaving")
        assert slow.result().content == b"sleep 1"
        assert gone.result().status_code == 200
    assert server.predict("leaving", b"x").status_code == 404
