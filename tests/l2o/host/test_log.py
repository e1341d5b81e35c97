"""Who has the file of a search or a study, where a process has forked others."""

import os
import select
import signal
import sys

import numpy as np
import pytest

from l2o import SearchSpace, UserError
from l2o.host.log import Asked, Log
from l2o.host.search import box_format
from l2o.host.study import named_format

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="it has no fork"),
    pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning"),
]
ASKED = Asked(0, [np.array([0.5])])


def search_log(path):
    return Log(path, {"bounds": [[0, 1]]}, box_format(1))


def study_log(path):
    return Log(path, {"space": []}, named_format(SearchSpace.from_dict({"x": (0.0, 1.0)})))


def events(path):
    log = search_log(path)
    log.close()
    return log.events


@pytest.fixture
def fork():
    """Run something in a forked child, which then waits: the call returns its id and what it had to say."""
    started = []

    def run(act):
        out, into = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(into, act().encode())
            except BaseException as error:
                os.write(into, repr(error).encode())
            signal.pause()
            os._exit(0)
        started.append(child)
        os.close(into)
        assert select.select([out], [], [], 30)[0], "the child says nothing"
        said = os.read(out, 4096).decode()
        os.close(out)
        return child, said

    yield run
    for child in started:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("open_", [search_log, study_log])
def test_a_forked_child_does_not_keep_a_closed_log(tmp_path, fork, open_):
    log = open_(tmp_path / "log")
    fork(lambda: "lives on")
    with pytest.raises(UserError, match="in use"):
        open_(tmp_path / "log")
    log.close()
    open_(tmp_path / "log").close()


def test_a_child_that_shares_the_file_after_all_does_not_keep_its_lock(tmp_path):
    log = search_log(tmp_path / "log")
    shared = os.dup(log._file.fileno())  # a child of a C library, which runs nothing of Python's
    log.close()
    search_log(tmp_path / "log").close()
    os.close(shared)


def test_a_forked_child_neither_writes_nor_unlocks_the_log_of_its_parent(tmp_path, fork):
    log = search_log(tmp_path / "log")

    def act():
        try:
            log.write(ASKED)
        except UserError as error:
            return str(error)
        finally:
            log.close()
        return "written"

    _, said = fork(act)
    assert "opened in another process" in said and str(tmp_path / "log") in said
    with pytest.raises(UserError, match="in use"):
        search_log(tmp_path / "log")
    log.write(ASKED)
    log.close()
    assert events(tmp_path / "log") == [ASKED]


def test_a_killed_parent_leaves_the_log_although_its_child_lives_on(tmp_path, fork):
    kept = []

    def parent():
        kept.append(search_log(tmp_path / "log"))
        kept[0].write(ASKED)
        child = os.fork()
        if child == 0:
            signal.pause()
        return str(child)

    killed, grandchild = fork(parent)
    try:
        with pytest.raises(UserError, match="in use"):
            search_log(tmp_path / "log")
        os.kill(killed, signal.SIGKILL)
        os.waitid(os.P_PID, killed, os.WEXITED | os.WNOWAIT)
        assert events(tmp_path / "log") == [ASKED]
        os.kill(int(grandchild), 0)
    finally:
        os.kill(int(grandchild), signal.SIGKILL)
