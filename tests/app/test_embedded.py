"""The embedded PostgreSQL: shared by processes, outliving them, and coming back after every kill."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from app.embedded import BackupFailed, Embedded, FolderOfAnotherVersion, FolderUnusable, StartFailed
from app.embedded.machine import options_for

_SMALL = {"shared_buffers": "32MB", "max_connections": "20"}

_USER_PROCESS = """
import sys, time
from pathlib import Path
from app.embedded import Embedded
server = Embedded(Path(sys.argv[1]), options={"shared_buffers": "32MB"})
server.start()
print(server.postmaster(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that its owner alone may enter, as a home directory is."""
    made = Path(tempfile.mkdtemp(prefix="fw-"))
    yield made
    Embedded(made).stop()
    shutil.rmtree(made, ignore_errors=True)


def _server(folder: Path) -> Embedded:
    return Embedded(folder, options=_SMALL)


def _ask(server: Embedded, statement: str) -> object:
    async def run() -> object:
        connection = await asyncpg.connect(server.url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(run())


def _kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def _wait_for_end(server: Embedded) -> None:
    until = time.monotonic() + 10
    while server.postmaster() is not None and time.monotonic() < until:
        time.sleep(0.02)


def test_two_users_share_one_server_and_the_last_one_out_stops_it(folder: Path) -> None:
    first, second = _server(folder), _server(folder)
    assert first.start() == second.start()
    pid = first.postmaster()
    assert pid is not None
    assert second.postmaster() == pid
    assert not first.stop()
    assert _ask(second, "SELECT 1") == 1
    assert second.stop()
    assert second.postmaster() is None


def test_it_speaks_over_a_socket_that_others_cannot_reach(folder: Path) -> None:
    server = _server(folder)
    server.start()
    assert _ask(server, "SHOW listen_addresses") == ""
    assert (folder / "postgres").stat().st_mode & 0o077 == 0
    server.stop()


def test_a_dump_is_its_owners_alone_and_one_that_fails_leaves_no_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, file, half = _server(folder), folder / "whole.dump", folder / "half.dump"
    server.start()
    server.dump(file)
    assert file.stat().st_mode & 0o077 == 0
    before = file.read_bytes()
    with pytest.raises(BackupFailed, match="already"):
        server.dump(file)
    assert file.read_bytes() == before
    with pytest.raises(BackupFailed, match="cannot be made"):
        server.dump(folder / "nowhere" / "forewarn.dump")
    monkeypatch.setattr("app.embedded.DATABASE", "nobodys")
    with pytest.raises(BackupFailed, match="nobodys"):
        server.dump(half)
    assert not half.exists()
    server.stop()


def test_a_killed_server_is_started_again_with_everything_committed(folder: Path) -> None:
    server = _server(folder)
    server.start()
    _ask(server, "CREATE TABLE kept AS SELECT 42 AS n")
    assert not server.ensure_running()
    _kill(server.postmaster())
    _wait_for_end(server)
    assert server.ensure_running()
    assert _ask(server, "SELECT n FROM kept") == 42
    assert server.stop()


def test_a_server_whose_user_was_killed_is_taken_over_by_the_next(folder: Path) -> None:
    user = subprocess.Popen(
        [sys.executable, "-c", _USER_PROCESS, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert user.stdout is not None
    pid = int(user.stdout.readline())
    _kill(user.pid)
    user.wait()
    user.stdout.close()
    server = _server(folder)
    server.start()
    assert server.postmaster() == pid, "the same server, not another"
    assert server.stop(), "the dead user does not count"


def test_two_processes_that_start_at_once_start_one_server(folder: Path) -> None:
    users = [
        subprocess.Popen(
            [sys.executable, "-c", _USER_PROCESS, str(folder)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    pids = set()
    for user in users:
        assert user.stdout is not None
        pids.add(user.stdout.readline())
    for user in users:
        user.kill()
        user.wait()
        assert user.stdout is not None
        user.stdout.close()
    assert len(pids) == 1
    server = _server(folder)
    server.start()
    assert server.stop()


def test_a_lock_file_whose_number_is_now_another_process_does_not_prevent_the_start(
    folder: Path,
) -> None:
    server = _server(folder)
    server.start()
    lock_file = folder / "postgres" / "postmaster.pid"
    written = lock_file.read_text()
    _kill(server.postmaster())
    _wait_for_end(server)
    ours = str(os.getpid())  # Alive, and not PostgreSQL: as after the restart of a container.
    lock_file.write_text(written.replace(written.split("\n")[0], ours, 1))
    assert server.ensure_running()
    assert _ask(server, "SELECT 1") == 1
    server.stop()


def test_a_cluster_that_was_being_made_when_killed_is_made_anew(folder: Path) -> None:
    (folder / "postgres.new" / "base").mkdir(parents=True)
    server = _server(folder)
    server.start()
    assert _ask(server, "SELECT current_database()") == "forewarn"
    server.stop()


def test_files_that_vanish_under_a_running_service_are_not_replaced_by_empty_ones(
    folder: Path,
) -> None:
    server = _server(folder)
    server.start()
    pid = server.postmaster()
    shutil.rmtree(folder / "postgres")
    with pytest.raises(StartFailed, match="gone"):
        server.ensure_running()
    _kill(pid)


def test_a_long_path_gets_a_socket_elsewhere(folder: Path) -> None:
    deep = folder / ("long-name-" * 9) / "data"
    server = _server(deep)
    server.start()
    assert _ask(server, "SELECT 1") == 1
    assert str(deep) not in server.url
    server.stop()
    shutil.rmtree(server.url.partition("?host=")[2])


def test_a_folder_of_another_version_is_refused_in_a_sentence(folder: Path) -> None:
    (folder / "postgres").mkdir()
    (folder / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(FolderOfAnotherVersion, match=r"made by PostgreSQL 17, and this is 18\."):
        _server(folder).start()


def test_a_folder_that_cannot_be_written_is_refused_in_a_sentence(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(FolderUnusable, match="Set FOREWARN_DATA_DIR"):
        _server(folder / "file" / "data").start()


def test_a_server_that_will_not_start_says_why(folder: Path) -> None:
    with pytest.raises(
        StartFailed, match=r"did not start .* contains errors .*postgres\.log has more"
    ):
        Embedded(folder, options={"no_such_setting": "1"}).start()


def test_a_log_that_is_a_link_is_written_where_it_leads(folder: Path) -> None:
    """Run as root, the file is handed over to whom the server runs as, and not the link."""
    folder.chmod(0o755)  # Else a server of root's may write everywhere.
    kept = folder / "kept.log"
    (folder / "postgres.log").symlink_to(kept)
    server = _server(folder)
    server.start()
    server.stop()
    assert "ready to accept connections" in kept.read_text()


@pytest.mark.parametrize(
    ("memory_gb", "expected", "because"),
    [
        (0.1, "32MB", "never less than 32 MB"),
        (2, "256MB", "an eighth"),
        (4, "512MB", "at least 512 MB from 4 GB on"),
        (16, "2048MB", "an eighth again"),
        (256, "8192MB", "more than 8 GB helps nobody here"),
    ],
)
def test_shared_buffers_fit_the_machine(memory_gb: float, expected: str, because: str) -> None:
    assert options_for(int(memory_gb * 2**30))["shared_buffers"] == expected, because
