"""A lock keeps a second process out and dies with its own."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from maenas.errors import MaenasError
from maenas.locks import lock_file, locked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")

HOLD = "import sys, time\nfrom maenas.locks import locked\nwith locked(sys.argv[1]):\n    print('held', flush=True)\n"


def held_by_another(path: Path, then: str = "    time.sleep(600)\n") -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD + then, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("name", [".", "table.json"])
def test_the_second_is_refused_with_the_number_of_the_first(tmp_path: Path, name: str) -> None:
    first = held_by_another(tmp_path / name)
    try:
        with pytest.raises(MaenasError, match=f"in use by process {first.pid}; wait"), locked(tmp_path / name):
            pass
    finally:
        first.kill()
        first.communicate()


def test_where_no_byte_can_be_written_no_lock_is_left(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    words = [sys.executable, "-c", HOLD, str(tmp_path / "table.json")]
    process = subprocess.run(words, capture_output=True, text=True, preexec_fn=limit, check=False)
    assert "cannot write into" in process.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    first = held_by_another(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert lock_file(tmp_path).exists()
    with locked(tmp_path):
        assert lock_file(tmp_path).read_text() == f"{os.getpid()}\n"
    assert [*tmp_path.iterdir()] == []


def test_a_lock_that_a_child_of_a_killed_process_holds_is_waited_for(tmp_path: Path) -> None:
    """As workers that load images do for some seconds."""
    first = held_by_another(
        tmp_path, "    import os\n    if os.fork() == 0: time.sleep(1.5)\n    else: time.sleep(600)\n"
    )
    first.send_signal(signal.SIGKILL)
    first.wait()
    with locked(tmp_path):
        pass
    first.communicate()


def test_also_this_process_cannot_hold_a_lock_twice(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(MaenasError, match=f"process {os.getpid()}"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_two_names_of_one_file_are_one_lock(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "table.json")
    with locked(tmp_path / "table.json"), pytest.raises(MaenasError, match="in use"), locked(tmp_path / "link"):
        pass


def test_of_many_at_once_one_is_in_at_a_time(tmp_path: Path) -> None:
    inside, most, done = [0], [0], [0]

    def enter() -> None:
        while True:
            try:
                with locked(tmp_path):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    inside[0] -= 1
                    done[0] += 1
                    return
            except MaenasError:
                continue

    threads = [threading.Thread(target=enter) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most[0], done[0]) == (1, 16)


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
def test_what_stands_in_the_place_of_a_lock_is_an_error_of_the_user(tmp_path: Path, kind: str) -> None:
    place = lock_file(tmp_path / "a")
    if kind == "folder":
        place.mkdir()
    elif kind == "link":
        place.symlink_to(place)
    else:
        os.mkfifo(place)
    with pytest.raises(MaenasError, match="cannot write into"), locked(tmp_path / "a"):
        pass
    with pytest.raises(MaenasError, match="cannot write into"), locked(tmp_path / "no" / "a"):
        pass
