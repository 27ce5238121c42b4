"""The embedded PostgreSQL: a real server from a wheel, in a folder, shared by whoever uses the folder.

The folder holds ``postgres/`` (the cluster), ``postgres.log`` and two lock files. Everyone who uses
the server holds ``in-use.lock`` shared; the kernel drops it when they die, however they die.
Starting and stopping happen under ``start.lock``, exclusive. A server that nobody uses any more,
because its last user was killed, goes on running and is taken over by the next.

    programs  PostgreSQL's programs, and whom they run as
    machine   its settings for the machine
    knocking  what a server says to who asks to be let in
    faults    why it cannot be used
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psutil

from app.embedded import machine
from app.embedded.faults import (
    BackupFailed,
    EmbeddedFailed,
    FolderOfAnotherVersion,
    FolderUnusable,
    StartFailed,
)
from app.embedded.knocking import Answer, is_answered, knock
from app.embedded.programs import VERSION, Programs, last_words

__all__ = [
    "DATABASE",
    "SUPERUSER",
    "VERSION",
    "BackupFailed",
    "Embedded",
    "EmbeddedFailed",
    "FolderOfAnotherVersion",
    "FolderUnusable",
    "StartFailed",
    "started_beside",
]

DATABASE = "forewarn"
SUPERUSER = "forewarn"

# The kernels allow 104 (macOS) to 108 (Linux) bytes; PostgreSQL appends ``/.s.PGSQL.5432.lock``.
_SOCKET_FOLDER_LIMIT = 80
_SOCKET = ".s.PGSQL.5432"
_NOBODY = 2**31 - 1  # no kernel gives a process this number
_LOG_LIMIT_BYTES = 10 * 2**20


class _GivenUp(StartFailed):
    """Somebody else has decided that it need not start."""


@contextmanager
def started_beside(data_dir: Path) -> Iterator[None]:
    """Has the server of that folder started while the block does something else, such as loading what will
    use it; the block is one more user of it, and finds out by ``Embedded.start`` when, or why not.
    """
    user = Embedded(data_dir)

    def start() -> None:
        with suppress(Exception):  # Whoever starts it in the block meets the same, and tells it.
            user.start()

    beside = threading.Thread(target=start)
    beside.start()
    try:
        yield
    finally:
        user.give_up()
        beside.join()
        user.stop()


class Embedded:
    """One user of the server in ``data_dir``. All methods block; none is for the event loop.

    ``options`` are PostgreSQL settings that win over ours, for tests and unusual machines. They
    count when this user is the one who starts the server.
    """

    def __init__(self, data_dir: Path, *, options: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir.expanduser().absolute()
        self._options = dict(options or {})
        self._cluster = self.data_dir / "postgres"
        self._log = self.data_dir / "postgres.log"
        self._programs = Programs()
        self._use: int | None = None
        self._given_up = threading.Event()

    @property
    def url(self) -> str:
        """Where the server listens: a unix socket, no port."""
        return f"postgresql://{SUPERUSER}@/{DATABASE}?host={quote(str(self._socket_folder()))}"

    def start(self, *, timeout_seconds: float = 300) -> str:
        """Starts the server, or joins the one that runs, and returns its URL.

        The first start makes the cluster, in about a second. After a crash PostgreSQL recovers
        first, which takes as long as it takes, up to ``timeout_seconds``.

        Raises:
            EmbeddedFailed: with one sentence that says why.
        """
        self._prepare_folder()
        with self._alone(heeding=True):
            if self._use is None:
                self._use = _lock(self.data_dir / "in-use.lock", fcntl.LOCK_SH)
            try:
                self._start_unless_alive(timeout_seconds)
            except _GivenUp:
                self._go()
                raise
            except BaseException:
                self._leave()  # Not stopped: if it is recovering, that goes on.
                raise
            try:
                self._make_database()
            except BaseException:
                self._go()
                raise
        return self.url

    def give_up(self) -> None:
        """Has a start that goes on in another thread end soon, and leave no server that nobody uses."""
        self._given_up.set()

    def ensure_running(self, *, timeout_seconds: float = 300) -> bool:
        """Starts the server again if it died. Returns whether it had to; cheap when it did not.

        Raises:
            StartFailed: it cannot be started, or its files are gone; nothing new is made then.
        """
        if self.postmaster() is not None:
            return False
        if not (self._cluster / "PG_VERSION").exists():
            raise StartFailed(f"The files of PostgreSQL in {self.data_dir} are gone.")
        with self._alone():
            return self._start_unless_alive(timeout_seconds)

    def stop(self) -> bool:
        """Leaves the server; the last one out stops it. Returns whether it was stopped."""
        if self._use is None:
            return False
        with self._alone():
            return self._go()

    def back_up(self, folder: Path) -> Path:
        """Copies the cluster, as it is at the end of the copying, into a new folder, while others work.

        The folder is one that ``Embedded`` starts on. Returns its absolute path.

        Raises:
            BackupFailed: the folder is in use or cannot be written, or a page's checksum is wrong.
        """
        folder = folder.expanduser().absolute()
        cluster = folder / "postgres"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise BackupFailed(
                    f"The folder {folder} is not empty; name one that is not there yet."
                )
        except OSError as error:
            raise BackupFailed(f"The folder {folder} cannot be made ({error.strerror}).") from error
        self._copy("pg_basebackup", "-D", str(cluster), "-X", "stream", "-c", "fast")
        self._programs.hand_over(cluster, *cluster.rglob("*"))
        return folder

    def dump(self, file: Path) -> None:
        """Writes the database, as it is at one instant, into a file that ``pg_restore`` reads.

        Only its owner can read it, from the first byte on; what is not whole is taken away.

        Raises:
            BackupFailed: the file is there already, or cannot be written.
        """
        file = file.expanduser().absolute()
        try:
            file.touch(mode=0o600, exist_ok=False)
        except FileExistsError as error:
            raise BackupFailed(f"The file {file} is there already; name another.") from error
        except OSError as error:
            raise BackupFailed(f"The file {file} cannot be made ({error.strerror}).") from error
        try:
            self._copy("pg_dump", "--format=custom", f"--file={file}", DATABASE)
        except BaseException:
            file.unlink(missing_ok=True)
            raise

    def restore(self, file: Path) -> None:
        """Fills the database, which must be empty, from such a file; whole or not at all.

        Raises:
            BackupFailed: the file cannot be read, or the database is not empty.
        """
        whole = ("--single-transaction", "--exit-on-error", "--no-owner", f"--dbname={DATABASE}")
        self._copy("pg_restore", *whole, str(file.expanduser().absolute()))

    def _copy(self, program: str, *words: str) -> None:
        at = ("-h", str(self._socket_folder()), "-U", SUPERUSER, "--no-password")
        done = self._programs.run(program, *at, *words, as_we_are=True)
        if done.returncode:
            raise BackupFailed(f"{program} failed: {last_words(done.stdout)}")

    def postmaster(self) -> int | None:
        """The process id of the running server, or None."""
        try:
            pid = int((self._cluster / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None
        return pid if self._is_our_postmaster(pid) else None

    # The folder

    def _prepare_folder(self) -> None:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.data_dir):
                pass
        except OSError as error:
            raise FolderUnusable(
                f"The data folder {self.data_dir} cannot be written ({error.strerror}). "
                "Set FOREWARN_DATA_DIR to a folder that this user owns."
            ) from error
        version_file = self._cluster / "PG_VERSION"
        try:
            version = version_file.read_text().strip() if version_file.exists() else str(VERSION)
        except PermissionError as error:
            raise FolderUnusable(
                f"The data folder {self.data_dir} belongs to another user. "
                "Run as that user, or set FOREWARN_DATA_DIR to a folder of your own."
            ) from error
        if version != str(VERSION):
            raise FolderOfAnotherVersion(
                f"The data folder {self.data_dir} was made by PostgreSQL {version}, and this is {VERSION}. "
                "Move it with pg_upgrade, or set FOREWARN_DATA_DIR to a new folder."
            )
        self._programs.choose_account(self.data_dir, self._cluster)

    def _socket_folder(self) -> Path:
        if len(os.fsencode(self._cluster)) <= _SOCKET_FOLDER_LIMIT:
            return self._cluster
        name = hashlib.sha256(os.fsencode(self.data_dir.resolve())).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"forewarn-{name}"

    @property
    def _socket(self) -> Path:
        return self._socket_folder() / _SOCKET

    def _prepare_socket_folder(self) -> None:
        folder = self._socket_folder()
        if folder == self._cluster:
            return
        if len(os.fsencode(folder)) > _SOCKET_FOLDER_LIMIT:
            raise FolderUnusable(
                f"The paths {self.data_dir} and {folder} are both too long for a unix socket. "
                "Set FOREWARN_DATA_DIR, or TMPDIR, to a shorter path."
            )
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = self._programs.user_id
        if os.geteuid() == 0:
            os.chown(folder, owner, -1, follow_symlinks=False)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner or found.st_mode & 0o077:
            raise FolderUnusable(
                f"The folder {folder} must belong to the user of PostgreSQL alone, and does not. Remove it."
            )

    # The server

    def _start_unless_alive(self, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        if not (self._cluster / "PG_VERSION").exists():
            self._make_cluster()
        started = False
        while self._knock() is Answer.not_now:
            # A socket may answer without a server: for an instant after it was killed, or because
            # it runs in another container. Only when both are gone a new one is launched.
            if self.postmaster() is None and not is_answered(self._socket):
                self._bury_the_dead()
                self._prepare_socket_folder()
                self._write_options()
                self._launch(deadline)
                started = True
            elif time.monotonic() > deadline:
                raise StartFailed(
                    f"PostgreSQL in {self.data_dir} is still recovering; {self._log} shows how far it is. "
                    "It goes on by itself: start again later."
                )
            else:
                self._pause()
        return started

    def _pause(self) -> None:
        """Waits a moment for others, unless it was given up."""
        if self._given_up.wait(0.1):
            raise _GivenUp(f"The start of PostgreSQL in {self.data_dir} was given up.")

    def _make_cluster(self) -> None:
        """Makes the cluster beside its place and renames it, so that a kill leaves none half made."""
        beside = self.data_dir / "postgres.new"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(mode=0o700)
        self._programs.hand_over(beside)
        made = self._programs.run(
            "initdb", "-D", str(beside), "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8",
            "--locale-provider=builtin", "--locale=C.UTF-8", "--lc-messages=C", "--no-instructions",
        )  # fmt: skip
        if made.returncode:
            raise StartFailed(
                f"PostgreSQL could not make its files in {self.data_dir}: {last_words(made.stdout)}"
            )
        with (beside / "postgresql.conf").open("a") as file:
            file.write(
                "\n# Written at each start; ALTER SYSTEM wins over it.\ninclude = 'forewarn.conf'\n"
            )
        beside.rename(self._cluster)

    def _write_options(self) -> None:
        options = {**machine.options_for(machine.memory_bytes()), **self._options}
        options["unix_socket_directories"] = str(self._socket_folder())
        options["unix_socket_permissions"] = "0777"  # The folder decides; it is closed to others.
        quoted = {name: value.replace("'", "''") for name, value in options.items()}
        text = "".join(f"{name} = '{value}'\n" for name, value in quoted.items())
        path = self._cluster / "forewarn.conf"
        path.write_text(text)
        self._programs.hand_over(path)

    def _launch(self, deadline: float) -> None:
        if self._log.exists() and self._log.stat().st_size > _LOG_LIMIT_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        self._log.touch(mode=0o600)
        self._programs.hand_over(self._log.resolve())  # It may be a link to where logs are kept.
        while True:
            began = self._log.stat().st_size
            log = str(self._log)
            done = self._programs.run(
                "pg_ctl", "start", "-D", str(self._cluster), "-l", log, "-w", "-t", "60"
            )
            if done.returncode == 0 or is_answered(self._socket):
                return
            words = self._log.read_bytes()[began:].decode(errors="replace")
            # Children of a killed server hold its memory for a moment.
            if "shared memory block" not in words or time.monotonic() > deadline:
                raise StartFailed(
                    f"PostgreSQL did not start in {self.data_dir}: {last_words(words or done.stdout)} "
                    f"({self._log} has more)"
                )
            time.sleep(0.2)

    def _make_database(self) -> None:
        """Makes our database in a new cluster, and where the first start was killed before it could."""
        if self._knock() is not Answer.no_database:
            return
        at = ("-h", str(self._socket_folder()), "-U", SUPERUSER)
        made = self._programs.run("createdb", *at, DATABASE)
        if made.returncode:
            raise StartFailed(f"PostgreSQL could not make its database: {last_words(made.stdout)}")

    def _knock(self) -> Answer:
        return knock(self._socket, SUPERUSER, DATABASE)

    def _bury_the_dead(self) -> None:
        """Makes PostgreSQL believe that the server of the lock files is gone, which it is.

        PostgreSQL only asks whether the number in them is taken, which it is after a restart of a
        container, or where nobody waits for dead children. The number is replaced rather than the
        file removed: its line about shared memory guards against children that outlive their
        server.
        """
        (self._socket_folder() / f"{_SOCKET}.lock").unlink(missing_ok=True)
        lock_file = self._cluster / "postmaster.pid"
        if lock_file.exists():
            _, _, rest = lock_file.read_text().partition("\n")
            lock_file.write_text(f"{_NOBODY}\n{rest}")

    def _is_our_postmaster(self, pid: int) -> bool:
        try:
            process = psutil.Process(pid)
            return (
                process.status() != psutil.STATUS_ZOMBIE and str(self._cluster) in process.cmdline()
            )
        except psutil.Error:
            return False

    # The locks

    @contextmanager
    def _alone(self, *, heeding: bool = False) -> Iterator[None]:
        """Holds the lock of starting and stopping; who is ``heeding`` waits for it only until given up."""
        held = None
        while held is None:
            try:
                how = fcntl.LOCK_EX | (fcntl.LOCK_NB if heeding else 0)
                held = _lock(self.data_dir / "start.lock", how)
            except BlockingIOError:
                self._pause()
        try:
            yield
        finally:
            os.close(held)

    def _go(self) -> bool:
        """Leaves; the last one out stops the server. Returns whether it did. Nobody else may start it now."""
        self._leave()
        try:
            last = _lock(self.data_dir / "in-use.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            self._programs.run(
                "pg_ctl", "stop", "-D", str(self._cluster), "-m", "fast", "-w", "-t", "60"
            )
        finally:
            os.close(last)
        return True

    def _leave(self) -> None:
        if self._use is not None:
            os.close(self._use)
            self._use = None


def _lock(path: Path, how: int) -> int:
    """Locks a file and returns its descriptor; closing it unlocks.

    Raises:
        BlockingIOError: ``how`` includes ``LOCK_NB`` and another holds it.
        FolderUnusable: the file cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise FolderUnusable(
            f"The lock file {path} cannot be opened ({error.strerror}). Run as the user who owns the folder, "
            "or set FOREWARN_DATA_DIR to a folder of your own."
        ) from error
    try:
        fcntl.flock(descriptor, how)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
