"""Memory is scarce if the machine or a control group says so; what is missing or odd says nothing."""

import pytest

from wfserve.measure.pressure import MemoryPressure

PLENTY = "MemTotal:       1000 kB\nMemFree:          10 kB\nMemAvailable:    500 kB\n"
CALM = "some avg10=0.00 avg60=99.00 avg300=99.00 total=1\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=1\n"
GROUP = "sys/fs/cgroup/outer/inner"


@pytest.fixture
def system(tmp_path):
    """The files of a system on which nothing is scarce, but for those that are given."""

    def made(**files):
        calm = {
            "proc/meminfo": PLENTY,
            "proc/pressure/memory": CALM,
            "proc/self/cgroup": "1:name=systemd:/\n0::/outer/inner\n",
            f"{GROUP}/memory.current": "990\n",
            f"{GROUP}/memory.high": "max\n",
            f"{GROUP}/memory.max": "max\n",
            f"{GROUP}/memory.stat": "anon 800\ninactive_file 10\n",
        }
        for name, text in (calm | files).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return MemoryPressure(tmp_path)

    return made


def test_plenty(system):
    assert not system()(0.0)


@pytest.mark.parametrize(
    "files",
    [
        {"proc/meminfo": PLENTY.replace("500", "49")},
        {"proc/pressure/memory": CALM.replace("some avg10=0", "some avg10=10")},
        {f"{GROUP}/memory.pressure": CALM.replace("some avg10=0", "some avg10=10")},
        {f"{GROUP}/memory.high": "1000\n"},
        {f"{GROUP}/memory.max": "1000\n"},
        {"sys/fs/cgroup/outer/memory.max": "1000\n", "sys/fs/cgroup/outer/memory.current": "960\n"},
        {
            "proc/self/cgroup": "0::/../x\n",
            "sys/fs/cgroup/memory.max": "9",
            "sys/fs/cgroup/memory.current": "9",
        },
    ],
)
def test_scarce(system, files):
    assert system(**files)(0.0)


@pytest.mark.parametrize(
    "files",
    [
        {f"{GROUP}/memory.max": "1000\n", f"{GROUP}/memory.stat": "inactive_file 900\n"},  # is given back
        {f"{GROUP}/memory.max": "1000\n", "proc/self/cgroup": "1:name=systemd:/\n"},
        {"proc/meminfo": "MemTotal: lots\n"},
        {"proc/meminfo": "\n \nMemAvailable:\n"},
        {"proc/pressure/memory": "some avg10=\nsome\n"},
        {f"{GROUP}/memory.max": "1000\n", f"{GROUP}/memory.current": "much"},
        {"proc/self/cgroup": "\udcff".encode("utf-8", "surrogateescape").decode("latin-1")},
    ],
)
def test_what_says_nothing(system, files):
    assert not system(**files)(0.0)


def test_a_system_without_any_of_these_files(tmp_path):
    assert not MemoryPressure(tmp_path)(0.0)


def test_it_is_read_once_a_second(system):
    pressure = system()
    assert not pressure(10.0)
    system(**{"proc/meminfo": PLENTY.replace("500", "49")})
    assert not pressure(10.9)
    assert pressure(11.0)
    system()
    assert pressure(11.9)
    assert not pressure(12.0)
