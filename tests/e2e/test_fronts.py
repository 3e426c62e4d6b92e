"""Several front ends are one server to its clients, and one that dies costs its own requests alone."""

import os
import resource
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.archives import chain, pack
from tests.e2e.test_faults import is_worker, under_way, wait_for_metric, wait_for_progress, wait_until
from tests.servers import PATIENCE, Server, descendants, wait_until_gone


@pytest.fixture
def fronts(tmp_path, store):
    with Server(tmp_path, store, "fronts") as server:
        yield server


def front_pids(server):
    return {pid for pid in server.descendants() if name_of(pid).startswith("wf:front")}


def name_of(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def fresh(server, path="/wfpredict/upper", content=b"abc", **more):
    """Call on a connection of its own, which any of the front ends may get."""
    return httpx.post(server.url("inference", path), content=content, timeout=PATIENCE, **more)


def await_fronts(server, gone, count=2):
    deadline = time.monotonic() + PATIENCE
    while len(found := front_pids(server) - gone) < count:
        assert time.monotonic() < deadline, "a front end was not replaced"
        time.sleep(0.01)
    return found


def test_each_of_them_serves_what_is_registered_and_nothing_that_is_not(fronts):
    for _ in range(3):
        fronts.register("upper.war")
        assert [fresh(fronts).content for _ in range(20)] == [b"ABC"] * 20
        assert fronts.call("DELETE", "/workflows/upper").status_code == 200
        assert {fresh(fronts).status_code for _ in range(20)} == {404}


def test_a_second_server_does_not_take_half_the_requests(fronts, tmp_path, store):
    for kind in ("serve", "fronts"):
        directory = tmp_path / kind
        directory.mkdir()
        second = Server(directory, store, kind, state_dir=directory / "state")
        text = second.config.read_text()
        for api, port in second.ports.items():
            text = text.replace(f":{port}", f":{fronts.ports[api]}") if api == "inference" else text
        second.config.write_text(text)
        environ = {**os.environ, "TS_CONFIG_FILE": str(second.config)}
        refused = subprocess.run(
            second.command(), cwd=directory, env=environ, capture_output=True, text=True, timeout=PATIENCE
        )
        assert refused.returncode == 2
        assert "cannot listen on" in refused.stderr + refused.stdout


def test_killing_front_ends_costs_the_others_nothing(fronts):
    """Clients that stay with a front end that lives see nothing; those of the dead one can connect again."""
    fronts.register("upper.war")
    stop = threading.Event()
    answers, broken = [], []

    def client(number):
        nonlocal broken
        body, fresh = f"client {number}".encode(), True
        with httpx.Client(timeout=PATIENCE) as connection:
            while not stop.is_set():
                try:
                    response = connection.post(fronts.url("inference", "/wfpredict/upper"), content=body)
                except httpx.TransportError as error:  # the front end that it was connected to has died
                    broken += [] if fresh else [error]  # a new connection may get to one that is just dying
                    fresh = True
                else:
                    fresh = False
                    answers.append((response.status_code, response.content == body.upper()))

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client, number) for number in range(8)]
        try:
            for _ in range(4):
                wait_for_progress(answers, 60)
                victim = min(front_pids(fronts))
                os.kill(victim, signal.SIGKILL)
                await_fronts(fronts, {victim})
        finally:
            stop.set()
    for each in clients:
        each.result()
    assert len(answers) > 200
    assert set(answers) == {(200, True)}
    assert len(broken) <= 8 * 4  # each at most loses what it had under way
    assert fronts.metric("wfserve_worker_deaths_total", workflow="upper", node="upper") == 0


def test_what_a_dead_front_end_counted_is_not_forgotten(fronts):
    fronts.register("upper.war")
    for _ in range(30):
        assert fresh(fronts).status_code == 200
    labels = {"workflow": "upper", "outcome": "2xx"}
    assert fronts.metric("wfserve_requests_total", **labels) == 30
    for victim in list(front_pids(fronts)):
        os.kill(victim, signal.SIGKILL)
        await_fronts(fronts, {victim})
    assert fronts.metric("wfserve_requests_total", **labels) == 30
    deadline = time.monotonic() + PATIENCE
    while "refused" in (status := try_once(fronts)):
        assert time.monotonic() < deadline
    assert status == "200"
    assert fronts.metric("wfserve_requests_total", **labels) == 31


def try_once(server):
    try:
        return str(fresh(server).status_code)
    except httpx.ConnectError:
        return "refused"


def test_a_dead_front_ends_batch_is_ended(fronts):
    """It runs on without anybody to wait for it; its worker is free again after the node's timeout."""
    fronts.register("impatient.war")
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(try_to, fronts, b"sleep 3600")
        wait_for_metric(fronts, "wfserve_node_running", 1, "impatient")
        victims = front_pids(fronts)
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        assert isinstance(lost.result(), httpx.TransportError)
        await_fronts(fronts, victims)
        deadline = time.monotonic() + PATIENCE
        while "refused" in try_once(fronts):
            assert time.monotonic() < deadline
        answer = fresh(fronts, "/wfpredict/impatient", b"next")
    assert answer.content == b"next"


def try_to(server, body):
    try:
        return fresh(server, "/wfpredict/impatient", body)
    except httpx.TransportError as error:
        return error


def test_workers_are_not_multiplied(fronts, store):
    pack(store, "grows", chain("obey", settings="min-workers: 1\nmax-workers: 3"))
    fronts.register("grows.war")
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: fresh(fronts, "/wfpredict/grows", b"sleep 0.5"), range(12)))
        assert {answer.status_code for answer in answers} == {200}
    assert len([pid for pid in fronts.descendants() if is_worker(pid)]) <= 3 + 1
    described = fronts.call("GET", "/models/grows__obey").json()[0]
    assert len(described["workers"]) <= 3


def test_a_front_end_that_is_told_to_stop_answers_and_is_replaced(fronts):
    fronts.register("obey.war")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(fresh, fronts, "/wfpredict/obey", b"sleep 1.5")
        wait_for_metric(fronts, "wfserve_node_running", 1)
        victims = front_pids(fronts)
        for victim in victims:
            os.kill(victim, signal.SIGTERM)
        assert slow.result().content == b"sleep 1.5"
    assert wait_until_gone(victims) == set()
    await_fronts(fronts, victims)


def test_tokens_are_known_to_all(tmp_path, store):
    import json

    keys = tmp_path / "key_file.json"
    settings = {"disable_token_authorization": "false", "load_workflows": "upper.war"}
    with Server(tmp_path, store, "fronts", **settings) as server:
        server.wait_for("registered upper")

        def header(kind):
            return {"authorization": f"Bearer {json.loads(keys.read_text())[kind]['key']}"}

        assert {fresh(server).status_code for _ in range(10)} == {400}
        assert {fresh(server, headers=header("inference")).status_code for _ in range(10)} == {200}
        old = header("inference")
        assert server.call("GET", "/token?type=inference", headers=header("API")).status_code == 200
        wanted = header("inference")
        deadline = time.monotonic() + PATIENCE
        while {fresh(server, headers=wanted).status_code for _ in range(10)} != {200}:
            assert time.monotonic() < deadline
        assert {fresh(server, headers=old).status_code for _ in range(10)} == {400}


def test_a_unix_socket_is_shared(tmp_path, store):
    path = tmp_path / "inference.sock"
    settings = {"inference_address": f"unix:{path}", "load_workflows": "upper.war"}
    with Server(tmp_path, store, "fronts", **settings) as server:
        server.wait_for("registered upper")
        for _ in range(10):
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
                assert client.post("http://x/wfpredict/upper", content=b"abc").content == b"ABC"
    assert not path.exists()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"management_address": "{inference_address}"}, "for the inference API alone"),
        ({"inference_address": "https://127.0.0.1:8443"}, "certificate_file or keystore"),
    ],
)
def test_what_front_ends_cannot_share_is_refused(tmp_path, store, settings, why):
    server = Server(tmp_path, store, "fronts", **dict.fromkeys((), ""))
    inference = f"http://127.0.0.1:{server.ports['inference']}"
    with server.config.open("a") as file:
        for key, value in settings.items():
            file.write(f"{key}={value.format(inference_address=inference)}\n")
    environ = {**os.environ, "TS_CONFIG_FILE": str(server.config)}
    refused = subprocess.run(
        server.command(), cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=PATIENCE
    )
    assert refused.returncode == 2
    assert why in refused.stderr + refused.stdout


def test_ctrl_c_while_front_ends_start(tmp_path, store):
    """A terminal interrupts all processes of a group; it is the supervisor that has to end, and says so."""
    server = Server(tmp_path, store, "fronts")
    environ = {**os.environ, "TS_CONFIG_FILE": str(server.config)}
    with subprocess.Popen(
        server.command(),
        cwd=tmp_path,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        deadline = time.monotonic() + PATIENCE
        while not any("wfserve.front" in command_of(pid) for pid in descendants(process.pid)):
            assert time.monotonic() < deadline
        below = descendants(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert "stopping" in said
    assert "front end" not in said
    assert wait_until_gone(below) == set()


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_a_front_end_that_is_told_to_stop_says_what_it_has_counted(fronts):
    fronts.register("upper.war")
    for _ in range(10):
        assert fresh(fronts).status_code == 200
    victims = front_pids(fronts)
    for victim in victims:
        os.kill(victim, signal.SIGTERM)
    await_fronts(fronts, victims)
    assert fronts.metric("wfserve_requests_total", workflow="upper", outcome="2xx") == 10


def test_what_a_dead_front_end_counted_of_a_workflow_goes_with_that(fronts):
    fronts.register("upper.war")
    for _ in range(10):
        assert fresh(fronts).status_code == 200
    assert fronts.metric("wfserve_requests_total", workflow="upper", outcome="2xx") == 10
    assert fronts.call("DELETE", "/workflows/upper").status_code == 200
    victims = front_pids(fronts)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    await_fronts(fronts, victims)
    assert 'workflow="upper"' not in fronts.call("GET", "/metrics", api="metrics").text


def test_too_many_connections_kill_no_front_end(fronts):
    """Descriptors of a new worker do not arrive where none is left; it is used once there are some again."""
    fronts.register("obey.war")
    pids = front_pids(fronts)
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, 64))
    with ExitStack() as crowd:
        for _ in range(150):
            crowd.enter_context(socket.create_connection(("127.0.0.1", fronts.ports["inference"])))
        fronts.wait_for("cannot accept a connection")
        assert fronts.call("PUT", "/models/obey__obey?min_worker=3&max_worker=3").status_code == 202
        fronts.wait_for("no descriptor is left for worker")
    assert [fresh(fronts, "/wfpredict/obey").content for _ in range(10)] == [b"abc"] * 10
    assert front_pids(fronts) == pids


def test_what_there_is_once_is_counted_once(fronts, store):
    pack(store, "once", chain("obey", settings="min-workers: 1\nmax-workers: 1"))
    fronts.register("once.war")

    def shown():
        names = ("node_min_workers", "node_max_workers", "node_queue_size", "workers_idle", "workers_running")
        return [fronts.metric(f"wfserve_{name}", workflow="once", node="obey") for name in names]

    assert shown() == [1, 1, 2 * 100, 1, 0]
    with ThreadPoolExecutor(3) as pool:  # at either front end, perhaps
        calls = [pool.submit(fresh, fronts, "/wfpredict/once", b"sleep 3") for _ in range(3)]
        wait_until(lambda: under_way(fronts, "once") == 3)
        assert shown() == [1, 1, 2 * 100, 0, 1]
        assert {call.result().status_code for call in calls} == {200}
    assert shown() == [1, 1, 2 * 100, 1, 0]
