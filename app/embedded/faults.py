"""Why the embedded PostgreSQL cannot be used."""

from __future__ import annotations

from app.settings import Unusable


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
