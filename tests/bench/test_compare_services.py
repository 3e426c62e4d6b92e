"""A peer counts as up once it answers rightly; whatever becomes of it, nothing of it is left behind."""

import contextlib
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from bench.comparison.figures import Figures
from bench.comparison.rounds import Contest, Plan
from bench.load import Measurement
from bench.peers import running
from bench.peers.base import (
    MODELS,
    WORKLOADS,
    Launch,
    Peer,
    Setting,
    Task,
    body,
    build_all,
    is_right,
    native_of,
)
from bench.peers.environment import SetUpError, set_up
from bench.peers.running import Service, ServiceError
from bench.serve import free_ports

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0
LEAVES_A_CHILD = "setsid sleep 1000 & echo $!; wait"
ECHO = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
WORK = """
import sys, work
from pathlib import Path
store = Path(sys.argv[1])
for workload, file in zip(sys.argv[2::2], sys.argv[3::2]):
    loaded, body = work.load(workload, store), Path(file).read_bytes()
    for copies in 1, 2:
        print(workload, loaded.answers([bytearray(body)] * copies)[-1].hex())
"""


class Echo(Peer):
    """Right is the answer "right", as long as the request was."""

    name, requirements, ways = "echo", (), ("one",)
    code, sent = ECHO, "right"

    def refuses(self, way, workload):
        return "bytes" if workload.endswith("-bytes") else None

    def launch(self, python, task):
        return Launch([str(python), "-c", self.code, str(task.port)], "/")

    def body(self, workload, store):
        (store / "sent").write_text(self.sent)
        return store / "sent"

    def is_right(self, workload, answer, store):
        return answer == b"right"


@pytest.fixture
def task(tmp_path):
    return Task("one", "seq-native", Setting(1, 1), tmp_path, tmp_path, free_ports(1)[0])


def python():
    return Path(sys.executable)


def wait_until_gone(pid):
    """Wait for the end of a process that is no child of this one."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            assert select.select([descriptor], [], [], PATIENCE)[0], "it is still there"
        finally:
            os.close(descriptor)


def start_keeper(*before):
    command = [*before, sys.executable, "-m", "bench.peers.keeper", "sh", "-c", LEAVES_A_CHILD]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    return process, int(process.stdout.readline())


def test_a_keeper_takes_along_what_left_its_session():
    process, left = start_keeper()
    process.terminate()
    assert process.wait(PATIENCE) == 1
    process.stdout.close()
    assert not Path(f"/proc/{left}").exists()


def test_a_keeper_ends_when_its_parent_is_killed():
    parent = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    process, left = start_keeper(sys.executable, "-c", parent)
    process.kill()
    process.wait(PATIENCE)
    process.stdout.close()
    wait_until_gone(left)


def test_a_keeper_exits_as_its_command_does():
    done = subprocess.run(
        [sys.executable, "-m", "bench.peers.keeper", "sh", "-c", "exit 7"], cwd=ROOT, check=False
    )
    assert done.returncode == 7


def test_a_service_is_up_when_it_answers_rightly(task):
    with Service(Echo(), python(), task) as service:
        service.check()
    assert service.process.returncode is not None
    with pytest.raises(OSError, match="refused"):
        service.check()


def test_a_wrong_answer_is_none(task):
    peer = Echo()
    peer.sent = "wrong"
    with pytest.raises(ServiceError, match="answers wrongly: b'wrong'"), Service(peer, python(), task):
        pass


def test_one_that_dies_says_its_last_line(task):
    peer = Echo()
    peer.code = "raise SystemExit('no licence')"
    with pytest.raises(ServiceError, match="does not start: no licence"), Service(peer, python(), task):
        pass


def test_one_that_never_answers_is_given_up(task, monkeypatch):
    monkeypatch.setattr(running, "START", 0.0)
    with pytest.raises(ServiceError, match=r"does not answer: .*refused"), Service(Echo(), python(), task):
        pass


def test_a_peer_that_cannot_be_installed_says_why(tmp_path):
    with pytest.raises(SetUpError, match="Invalid requirement"):
        set_up(tmp_path / "environment", ["not a requirement"])
    assert not (tmp_path / "environment" / "packages.json").exists()


def test_each_load_gets_the_setting_that_was_best_for_it(tmp_path, monkeypatch):
    small, large, failing = Setting(1, 1), Setting(32, 1), Setting(8, 1)
    rates = {
        (small, 1): 9,
        (large, 1): 5,
        (small, 64): 50,
        (large, 64): 90,
        (failing, 1): 99,
        (failing, 64): 99,
    }
    plan = Plan(["seq-bytes", "seq-native"], [1, 64], 1, 1, 1, [small, large, failing])
    figures = Figures()
    contest = Contest(Echo(), python(), tmp_path, 0, plan, figures)
    turns = []

    def measured(target, connections, seconds):
        setting = next(each for each in plan.settings if each.batch == target.setting.batch)
        return Measurement(rates[setting, connections], 1.0, int(setting == failing), 1.0, 2.0)

    monkeypatch.setattr(Contest, "_service", lambda self, way, workload, setting: fake_service(setting))
    monkeypatch.setattr("bench.comparison.rounds.under_load", measured)
    monkeypatch.setattr(Contest, "_take_turns", lambda self, *turn: turns.append(turn))
    contest.run()
    assert turns == [("seq-native", 1, {"one": small}), ("seq-native", 64, {"one": large})]
    assert figures.refused == [{"peer": "echo", "way": "one", "workload": "seq-bytes", "why": "bytes"}]
    assert len(figures.tried) == 6


@contextlib.contextmanager
def fake_service(setting):
    """What `Contest` takes for a server that is up."""
    target = type("Target", (), {"setting": setting})
    yield type("Contestant", (), {"way": "one", "target": target, "setting": str(setting)})


def test_peers_compute_what_wfserve_does(tmp_path):
    build_all(tmp_path)
    environ = os.environ | {"PYTHONPATH": f"{MODELS}{os.pathsep}{MODELS.parent / 'peers' / 'apps'}"}
    workloads = sorted({native_of(each) for each in WORKLOADS})
    files = [part for workload in workloads for part in (workload, str(body(workload, tmp_path)))]
    command = [sys.executable, "-c", WORK, str(tmp_path), *files]
    printed = subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout
    answers = [line.split() for line in printed.splitlines()]
    assert [name for name, _ in answers] == [
        name for name in workloads for _ in range(2)
    ]  # alone, in a batch
    assert all(is_right(name, bytes.fromhex(answer), tmp_path) for name, answer in answers)


def test_the_command_line_refuses_what_it_does_not_know():
    command = [sys.executable, "-m", "bench.compare", "--peers", "mosec,bento"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no bento; there are mosec, torchserve, litserve, ray" in done.stderr
