"""What serving keeps of a network's own throughput: 32 clients over HTTP against a loop over ready batches.

The network is of all-MiniLM-L6-v2's size, on sequences of 64 tokens. The server is `wfserve serve`, batches
are of at most `BATCH` requests, and server and loop compute with as many threads: one fewer than there are
cores, since HTTP and the clients need one as well. They run in turns; the other idles meanwhile.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from bench.cores import cpu_seconds
from bench.load import Target, measure
from bench.serve import Server
from bench.workloads.minilm import MiniLM
from wfserve.archive.pack import ModelArchiveOptions, WorkflowArchiveOptions, pack_model, pack_workflow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HERE = Path(__file__).resolve().parent / "workloads"
SEED = 0
TOKENS, VOCABULARY = 64, 30_522
CLIENTS = 32
BATCH = 16  # as minilm.yaml has it: one half of the clients waits while the other is served
SIZES = (1, 2, 4, 8, 16, 32)
REPEATS = 9
ROUNDS = 8
SECONDS = 5.0  # of a turn
SWING = 2.0  # seconds after which all clients wait for full batches
GLANCE = 0.02  # seconds between looks at the counters


def build(directory: Path) -> torch.nn.Module:
    """Pack the network, with weights that are the same in every run, into `directory`; return it."""
    torch.manual_seed(SEED)
    network = MiniLM().eval()
    weights = directory / "encoder.pt"
    torch.save(network.state_dict(), weights)
    handler, model = HERE / "minilm_handler.py", HERE / "minilm.py"
    pack_model(
        ModelArchiveOptions(
            *("encoder", str(handler), "1.0", weights, model),
            export_path=directory,
            archive_format="zip-store",
        )
    )
    pack_workflow(WorkflowArchiveOptions("minilm", HERE / "minilm.yaml", export_path=directory))
    torch.randint(0, VOCABULARY, (TOKENS,)).numpy().tofile(directory / "body.bin")
    return network


def rate_offline(network: torch.nn.Module, batch: torch.Tensor, seconds: float) -> float:
    """Return the sequences a second of a loop over ready batches."""
    begun = now = time.perf_counter()
    count = 0
    with torch.inference_mode():
        while now < begun + seconds:
            network(batch)
            count += len(batch)
            now = time.perf_counter()
    return count / (now - begun)


def check(server: Server, target: Target, network: torch.nn.Module) -> None:
    """Ask once, and end the measurement if the answer is not what the network says."""
    body = target.body.read_bytes()
    answer = np.frombuffer(server.call("POST", target.port, target.path, body), np.float32)
    with torch.inference_mode():
        right = network(torch.frombuffer(bytearray(body), dtype=torch.int64)[None])[0]
    if not np.allclose(answer, right, atol=1e-4):
        raise SystemExit("the server's embedding is wrong")


class Turn(NamedTuple):
    """What a turn of the server found, its clients in full swing: a second, and an answer."""

    rate: float  # answers a second
    batch: float  # mean size
    worker_cpu: float  # seconds a second
    server_cpu: float  # seconds an answer


class Counters(NamedTuple):
    """What has been counted up to the moment at which a batch began."""

    at: float
    items: float
    batches: float
    worker_cpu: float
    server_cpu: float

    @classmethod
    def read(cls, server: Server) -> Counters:
        """Read all of them now."""
        text = server.call("GET", server.metrics, "/metrics").decode()
        counts = [counter(text, f"wfserve_node_{name}_total") for name in ("batched_items", "batches")]
        cpu = [cpu_seconds(pid) for pid in (*server.workers(), server.process.pid)]
        return cls(time.perf_counter(), *counts, *cpu)

    @classmethod
    def at_next_batch(cls, server: Server) -> Counters:
        """Read them as soon as another batch has begun: none is counted in part then."""
        before = now = cls.read(server)
        while now.batches == before.batches:
            time.sleep(GLANCE)
            now = cls.read(server)
        return now

    def until(self, end: Counters) -> Turn:
        """Return what happened between this moment and `end`."""
        seconds, items, batches, worker, server = (b - a for a, b in zip(self, end, strict=True))
        return Turn(items / seconds, items / batches, worker / seconds, server / items)


def counter(metrics: str, name: str) -> float:
    """Return the value of the node's series of that name in Prometheus' text format."""
    series = f'{name}{{node="encoder",workflow="minilm"}} '
    return float(next(line for line in metrics.splitlines() if line.startswith(series)).split()[-1])


def serve(server: Server, target: Target, seconds: float) -> Turn:
    """Put load on the server, and count while it is in full swing."""
    with ThreadPoolExecutor(1) as executor:
        load = executor.submit(measure, target, CLIENTS, 2 * SWING + seconds)
        time.sleep(SWING)
        begin = Counters.at_next_batch(server)
        time.sleep(seconds)
        turn = begin.until(Counters.at_next_batch(server))
    if load.result().rate is None:
        raise SystemExit("an answer was an error, or there was none")
    return turn


def seconds_by_size(network: torch.nn.Module) -> dict[int, float]:
    """Return the least seconds that ready batches of each size took, in turns: others can only add to it."""
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    with torch.inference_mode():
        for _ in range(REPEATS):
            for size, each in times.items():
                batch = torch.randint(0, VOCABULARY, (size, TOKENS))
                begun = time.perf_counter()
                network(batch)
                each.append(time.perf_counter() - begun)
    return {size: min(each) for size, each in times.items()}


def figures(threads: int) -> dict[str, float]:
    """Return both rates, the median of the rounds' ratios, and where the server's time went.

    And what batches of each size take offline: `offline_ms_B`.
    """
    torch.set_num_threads(threads)
    batch = torch.randint(0, VOCABULARY, (BATCH, TOKENS))
    with TemporaryDirectory(prefix="wfserve-bench-") as name:
        directory = Path(name)
        network = build(directory)
        with Server(directory, directory, "minilm", worker_threads=str(threads)) as server:
            target = Target(server.inference, "/wfpredict/minilm", directory / "body.bin")
            check(server, target, network)
            rounds = [
                (serve(server, target, SECONDS), rate_offline(network, batch, SECONDS)) for _ in range(ROUNDS)
            ]
    by_size = {f"offline_ms_{size}": taken * 1e3 for size, taken in seconds_by_size(network).items()}
    return summary(rounds, threads) | by_size


def summary(rounds: Sequence[tuple[Turn, float]], threads: int) -> dict[str, float]:
    """Return the medians of the rounds."""
    turns = Turn(*(statistics.median(each) for each in zip(*(turn for turn, _ in rounds), strict=True)))
    return {
        "served_rps": turns.rate,
        "offline_rps": statistics.median(rate for _, rate in rounds),
        "served_vs_offline": statistics.median(turn.rate / rate for turn, rate in rounds),
        "served_batch_size": turns.batch,
        "served_worker_busy": turns.worker_cpu / threads,
        "served_server_cpu_us": turns.server_cpu * 1e6,
    }


def show(numbers: Mapping[str, float]) -> None:
    """Print what the ratio is made of."""
    print(f"{'batch':<12}" + "".join(f"{size:>9}" for size in SIZES))
    print(f"{'offline, ms':<12}" + "".join(f"{numbers[f'offline_ms_{size}']:>9.1f}" for size in SIZES))
    print(
        f"served {numbers['served_rps']:.1f}/s in batches of {numbers['served_batch_size']:.1f}, offline"
        f" {numbers['offline_rps']:.1f}/s; the worker's threads are busy {numbers['served_worker_busy']:.1%},"
        f" the server takes {numbers['served_server_cpu_us']:.0f} µs of CPU an answer"
    )
