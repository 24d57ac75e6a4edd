"""The epoch counts up durably, whatever the last agent's end was like."""

from __future__ import annotations

import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from disks import Mount, fill, needs_root

from vedette.contract.errors import StateError
from vedette.delivery import Dropped, LedgerRow, Stream
from vedette.outbox import MemoryOutbox, next_epoch
from vedette.outbox.aside import KEPT
from vedette.outbox.epoch import UNCOUNTED_FROM

DOOR = Stream("door", "detections")
GATE = Stream("gate", "detections")


def test_it_counts_from_one_and_up_in_a_folder_it_makes(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert [next_epoch(folder, [DOOR]).number for _ in range(3)] == [1, 2, 3]


def test_the_file_is_the_owners_alone_and_nothing_else_stays(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        next_epoch(tmp_path, [DOOR]).end([])
    finally:
        os.umask(before)
    [file] = tmp_path.iterdir()
    assert file.name == "epoch.json"
    assert file.stat().st_mode & 0o777 == 0o600


def test_it_is_counted_before_anything_else_so_a_kill_never_gives_a_number_twice(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from vedette.outbox import next_epoch; from vedette.delivery import Stream\n"
        "print(next_epoch(Path(sys.argv[1]), [Stream('door', 'detections')]).number, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    numbers = []
    for _ in range(2):
        child = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
        assert child.returncode == -signal.SIGKILL, child.stderr
        numbers.append(int(child.stdout))
    assert [*numbers, next_epoch(tmp_path, []).number] == [1, 2, 3]


def test_after_a_crash_nobody_knows(tmp_path: Path) -> None:
    next_epoch(tmp_path, [DOOR, GATE])
    after = next_epoch(tmp_path, [DOOR])
    assert [(row.epoch, row.stream, row.last, row.lost_at_crash) for row in after.lost] == [
        (1, DOOR, None, None),
        (1, GATE, None, None),
    ]
    assert not any(row.balances for row in after.lost)


def test_after_a_clean_end_there_is_nothing_to_say(tmp_path: Path) -> None:
    epoch = next_epoch(tmp_path, [DOOR])
    outbox = MemoryOutbox(epoch.number, max_messages=10, max_bytes=10**6)
    outbox.append(DOOR, 0, "synced", b"{}")
    outbox.accept(entry.key for entry in outbox.batch(1, 0))
    epoch.end(outbox.ledger())
    assert next_epoch(tmp_path, [DOOR]).lost == ()


def test_messages_that_waited_at_the_end_are_lost_to_the_very_number(tmp_path: Path) -> None:
    epoch = next_epoch(tmp_path, [DOOR, GATE])
    outbox = MemoryOutbox(epoch.number, max_messages=3, max_bytes=10**6)
    for stream in (DOOR, DOOR, GATE, DOOR, DOOR):
        outbox.append(stream, 0, "synced", b"{}")
    outbox.accept([outbox.batch(1, 0)[0].key])
    epoch.end(outbox.ledger())
    [row] = next_epoch(tmp_path, [DOOR]).lost
    assert row == LedgerRow(1, DOOR, 1, 4, 0, 0, 0, 2, (Dropped(1, 2, "outbox_full"),), 0, lost_at_crash=2)
    assert row.balances


def test_rows_of_an_older_epoch_are_not_told_twice(tmp_path: Path) -> None:
    next_epoch(tmp_path, [DOOR])
    second = next_epoch(tmp_path, [DOOR])
    outbox = MemoryOutbox(second.number, max_messages=3, max_bytes=10**6, lost=second.lost)
    second.end(outbox.ledger())
    assert next_epoch(tmp_path, [DOOR]).lost == ()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b'{"epoch": "3", "streams": [], "ended": []}',
        b'{"epoch": 3}',
        b'{"epoch": -1, "streams": [], "ended": []}',
        b'{"epoch": 9007199254740991, "streams": [], "ended": []}',
        b'{"epoch": 3, "streams": [], "ended": [], "more": 1}',
        b"[" * 100_000,
    ],
)
def test_a_broken_file_is_put_aside_and_its_epoch_is_not_guessed(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "epoch.json"
    file.write_bytes(content)
    said: list[str] = []
    epoch = next_epoch(tmp_path, [DOOR], on_alert=said.append)
    assert UNCOUNTED_FROM <= epoch.number < 2**53
    [line] = said
    assert str(file) in line and "\n" not in line
    [kept] = tmp_path.glob("epoch.json.broken-*")
    assert kept.read_bytes() == content
    assert next_epoch(tmp_path, [DOOR]).number == epoch.number + 1, "and counting goes on from it"


def test_only_so_many_broken_files_are_kept(tmp_path: Path) -> None:
    for number in range(KEPT + 3):
        (tmp_path / "epoch.json").write_text(f"rubbish {number}")
        next_epoch(tmp_path, [DOOR], on_alert=str)
    assert {file.read_text() for file in tmp_path.glob("epoch.json.broken-*")} == {
        f"rubbish {number}" for number in range(3, KEPT + 3)
    }


def test_the_broken_file_of_just_now_is_kept_however_old_it_is(tmp_path: Path) -> None:
    for _ in range(KEPT + 1):
        (tmp_path / "epoch.json").write_text("newer")
        next_epoch(tmp_path, [])
    (tmp_path / "epoch.json").write_text("older")
    os.utime(tmp_path / "epoch.json", (0, 0))  # by a clock that was not set yet
    next_epoch(tmp_path, [])
    kept = [file.read_text() for file in tmp_path.glob("epoch.json.broken-*")]
    assert sorted(kept) == ["newer"] * (KEPT - 1) + ["older"]


def test_a_file_that_is_gone_while_others_show_that_it_was_there_is_not_guessed(tmp_path: Path) -> None:
    other = tmp_path / "outbox.sqlite"
    other.touch()
    assert next_epoch(tmp_path / "state", [DOOR], others=[other]).number >= UNCOUNTED_FROM
    assert next_epoch(tmp_path / "second", [DOOR], filed=7).number >= UNCOUNTED_FROM


def test_the_higher_of_two_counts_holds(tmp_path: Path) -> None:
    next_epoch(tmp_path, [DOOR])
    assert next_epoch(tmp_path, [DOOR], filed=40).number == 41
    assert next_epoch(tmp_path, [DOOR], filed=3).number == 42


def test_epochs_that_are_not_counted_do_not_repeat_and_follow_one_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uncounted(day: float) -> int:
        monkeypatch.setattr(time, "time", lambda: day * 86400)
        return next_epoch(tmp_path / str(secrets.token_hex(8)), [DOOR], filed=7).number

    numbers = [uncounted(20_000) for _ in range(500)]  # a clock that stands still
    assert len(set(numbers)) == 500
    assert max(numbers) < uncounted(20_001) < uncounted(65_000) < 2**53
    assert UNCOUNTED_FROM <= uncounted(0) < 2**53 and uncounted(10**7) < 2**53
    high = uncounted(30_000)
    monkeypatch.setattr(time, "time", lambda: 0.0)  # the clock has lost its time
    assert next_epoch(tmp_path / "last", [DOOR], filed=high).number > high


def test_an_epoch_that_is_not_counted_follows_one_of_the_same_day_that_was_kept(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    numbers = [next_epoch(folder, [DOOR], filed=7).number]  # nobody knows the last one
    (folder / "epoch.new").symlink_to("/dev/full")
    for _ in range(20):
        numbers.append(next_epoch(folder, [DOOR], on_alert=lambda why: None).number)
    assert numbers[0] >= UNCOUNTED_FROM and all(number > numbers[0] for number in numbers[1:])


@needs_root
@pytest.mark.parametrize("options", ["ro", "full"])
def test_a_disk_that_takes_nothing_gives_an_epoch_that_is_not_counted_and_kept_once_it_does(
    mount: Mount, options: str
) -> None:
    folder = mount("size=64k")
    assert next_epoch(folder, [DOOR]).number == 1
    if options == "ro":
        mount.again("remount,ro")
    else:
        fill(folder)
    said: list[str] = []
    epoch = next_epoch(folder, [DOOR], on_alert=said.append)
    assert epoch.number >= UNCOUNTED_FROM and not epoch.kept and len(said) == 1
    with pytest.raises(OSError, match=r"Read-only|No space"):
        epoch.keep()
    epoch.end([])  # logged, and no more
    mount.again("remount,rw,size=256k")
    epoch.keep()
    assert next_epoch(folder, [DOOR]).number == epoch.number + 1


def test_an_end_that_was_noted_is_not_unsaid_by_keeping_the_epoch(tmp_path: Path) -> None:
    (tmp_path / "epoch.new").symlink_to("/dev/full")
    epoch = next_epoch(tmp_path, [DOOR], on_alert=lambda why: None)
    (tmp_path / "epoch.new").unlink()
    outbox = MemoryOutbox(epoch.number, max_messages=10, max_bytes=10**6)
    outbox.append(DOOR, 0, "synced", b"{}")
    epoch.end(outbox.ledger())
    epoch.keep()  # as an outbox does that gets at its file in the last moment
    [row] = next_epoch(tmp_path, [DOOR]).lost
    assert (row.last, row.lost_at_crash) == (1, 1)


def test_a_folder_that_is_a_file_is_a_state_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StateError, match="state folder cannot be used"):
        next_epoch(tmp_path / "state", [DOOR])


def test_a_read_only_folder_is_a_state_error() -> None:
    # /proc takes no files from anybody, root included
    with pytest.raises(StateError, match="set state_dir to another folder"):
        next_epoch(Path("/proc/sys"), [DOOR])


@pytest.mark.parametrize("why", ["gone", "in the way", "no handle left"])
def test_an_end_that_cannot_be_noted_is_in_the_log_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    """Whoever stops an agent is not told by an error of what the next start tells anyway."""
    folder = tmp_path / "state"
    epoch = next_epoch(folder, [DOOR])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        if why == "gone":
            shutil.rmtree(folder)
        elif why == "in the way":
            (folder / "epoch.new").mkdir()
        else:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        epoch.end([])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    [line] = caplog.messages
    assert str(folder / "epoch.json") in line and "cannot be noted" in line
