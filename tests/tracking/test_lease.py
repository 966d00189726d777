"""One holder at a time, and none that is dead."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from caml.config.errors import Failure
from caml.tracking.lease import acquire_all

# Tries for every folder again and again; while it has one, a file that must not exist marks that.
CONTENDER = """
import os, sys, time
from pathlib import Path
from caml.tracking.lease import acquire_all
root, rounds = Path(sys.argv[1]), int(sys.argv[2])
folders = [root / f"run{i}" for i in range(4)]
got = 0
for _ in range(rounds):
    with acquire_all(folders, heartbeat=0.05) as leases:
        for folder in leases.held:
            mark = root / (folder.name + ".mark")
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
            leases.check(folder)
            mark.unlink()
            got += 1
print(got)
"""

HOLDER = """
import sys, time
from pathlib import Path
from caml.tracking.lease import acquire_all
leases = acquire_all([Path(p) for p in sys.argv[1:]], heartbeat=0.05)
print(len(leases.held), flush=True)
time.sleep(60)
"""


def hold(*folders: Path) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, *map(str, folders)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert int(process.stdout.readline()) == len(folders)
    return process


def test_a_lease_has_one_holder_until_it_is_given_back(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    with acquire_all(folders[:1]) as first, acquire_all(folders) as second:
        assert first.held == folders[:1]
        assert second.held == folders[1:]
        assert f"process {os.getpid()}" in second.refused[folders[0]]
        first.release(folders[0])
        with acquire_all(folders) as third:
            assert third.held == folders[:1]
    with acquire_all(folders) as fourth:
        assert fourth.held == folders
    assert len(list((tmp_path / ".leases").iterdir())) == 2, "one file for each folder, however often taken"


def test_four_processes_never_have_the_same_lease(tmp_path: Path) -> None:
    contenders = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, str(tmp_path), "40"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    answers = [contender.communicate(timeout=60) for contender in contenders]
    assert [error for _, error in answers if error] == []
    assert sum(int(got) for got, _ in answers) >= 4


def test_the_lease_of_a_killed_process_goes_to_exactly_one_of_four(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = hold(folder)
    with acquire_all([folder]) as refused:
        assert refused.held == []
    holder.kill()
    holder.wait()
    begin = tmp_path / "begin"
    script = (
        "import sys, time; from pathlib import Path; from caml.tracking.lease import acquire_all\n"
        f"while not Path({str(begin)!r}).exists(): pass\n"
        f"print(len(acquire_all([Path({str(folder)!r})]).held), flush=True); sys.stdin.read()"
    )
    contenders = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    time.sleep(0.5)
    begin.touch()
    got = [contender.stdout.readline().strip() for contender in contenders if contender.stdout]
    for contender in contenders:
        contender.communicate("")
    assert sorted(got) == ["0", "0", "0", "1"]


def test_a_suspended_process_of_this_machine_keeps_its_lease(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = hold(folder)
    try:
        holder.send_signal(signal.SIGSTOP)
        time.sleep(0.3)
        with acquire_all([folder], patience=0.1) as leases:
            assert leases.held == []
    finally:
        holder.kill()
        holder.wait()


def test_the_lease_of_another_machine_is_taken_when_its_heartbeat_stops(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with acquire_all([folder], heartbeat=60) as mine:
        (file,) = (tmp_path / ".leases").iterdir()
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "machine": ["elsewhere", "", ""], "host": "elsewhere"}))
        with acquire_all([folder], patience=30) as early:
            assert "elsewhere" in early.refused[folder]
        mine.check(folder)
        os.utime(file, (time.time() - 31, time.time() - 31))
        with acquire_all([folder], patience=30) as late:
            assert late.held == [folder]
            late.check(folder)
            with pytest.raises(Failure, match="run was taken over by another launch"):
                mine.check(folder)
            mine.release(folder)
            late.check(folder)


def test_the_heartbeat_keeps_a_lease_alive(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with acquire_all([folder], heartbeat=0.02) as leases:
        (file,) = (tmp_path / ".leases").iterdir()
        os.utime(file, (0, 0))
        deadline = time.time() + 5
        while file.stat().st_mtime == 0 and time.time() < deadline:
            time.sleep(0.02)
        assert time.time() - file.stat().st_mtime < 5
        leases.check(folder)


def test_the_pid_of_a_dead_holder_may_belong_to_another_process_now(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with acquire_all([folder]):
        (file,) = (tmp_path / ".leases").iterdir()
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, "started": "1"}))
        with acquire_all([folder]) as leases:
            assert leases.held == [folder]
