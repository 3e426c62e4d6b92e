"""A listener leaves nothing behind, and takes nothing away from others."""

import os
import re
import socket
import stat

import pytest

from wfserve.config import Address
from wfserve.errors import ConfigError
from wfserve.http.listen import bound


@pytest.fixture
def path(tmp_path):
    return tmp_path / "socket"


def unix(path):
    return Address("", 0, "unix", str(path))


def refused(message):
    """Expect an error that begins with `message`."""
    return pytest.raises(ConfigError, match=f"^{re.escape(message)}")


def test_a_unix_socket_is_its_owners_whatever_the_umask(path):
    before = os.umask(0)
    try:
        with bound(unix(path)) as listener:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert listener.getsockname() == str(path)
    finally:
        os.umask(before)
    assert not path.exists()


def test_what_a_killed_server_left_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    with bound(unix(path)) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.listen()
        client.connect(str(path))


@pytest.mark.parametrize("backlog", [0, 1])
def test_a_server_that_listens_keeps_its_socket(path, backlog):
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
        other.bind(str(path))
        other.listen(backlog)
        client.connect(str(path))  # with a backlog of 0, it is now too busy to accept another
        before = path.stat()
        with refused(f"cannot listen on unix:{path}: another server listens there"), bound(unix(path)):
            pass
        assert os.path.samestat(path.stat(), before)


def test_a_file_is_not_replaced(path):
    path.write_text("mine")
    with refused(f"cannot listen on unix:{path}: a file of that name exists"), bound(unix(path)):
        pass
    assert path.read_text() == "mine"


def test_a_link_is_not_followed(path, tmp_path):
    path.symlink_to(tmp_path / "elsewhere")
    with refused(f"cannot listen on unix:{path}: a file of that name exists"), bound(unix(path)):
        pass


def test_what_another_server_has_put_there_meanwhile_stays(path):
    with socket.socket(socket.AF_UNIX) as other:
        with bound(unix(path)):
            path.unlink()
            other.bind(str(path))
        assert path.exists()


def test_a_directory_that_is_not_there(tmp_path):
    path = tmp_path / "none" / "socket"
    with refused(f"cannot listen on unix:{path}: No such file or directory"), bound(unix(path)):
        pass


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port(host):
    with bound(Address(host, 0)) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        again = Address(host, port)
        with refused(f"cannot listen on {again}: Address already in use"), bound(again):
            pass
    with bound(Address(host, port)):
        pass


def test_a_name_that_does_not_resolve():
    with refused("cannot listen on http://none.invalid:80: "), bound(Address("none.invalid", 80)):
        pass
