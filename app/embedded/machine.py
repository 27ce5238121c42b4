"""PostgreSQL's settings for the machine it runs on."""

from __future__ import annotations

import os
from pathlib import Path

_GIGABYTE = 2**30
_MEGABYTE = 2**20


def options_for(memory_bytes: int) -> dict[str, str]:
    """PostgreSQL's settings for a machine with that much memory.

    shared_buffers is an eighth of it, at least 512 MB from 4 GB on, between 32 MB and 8 GB.
    ``wal_compression`` stays off: its default method makes writes three times slower after a
    checkpoint. ``synchronous_commit`` stays on: what was answered is on the disk.
    """
    buffers = memory_bytes // 8
    if memory_bytes >= 4 * _GIGABYTE:
        buffers = max(buffers, 512 * _MEGABYTE)
    buffers = min(max(buffers, 32 * _MEGABYTE), 8 * _GIGABYTE)
    return {
        "listen_addresses": "",
        "max_connections": "100",
        "shared_buffers": f"{buffers // _MEGABYTE}MB",
        "effective_cache_size": f"{max(memory_bytes // 2, 64 * _MEGABYTE) // _MEGABYTE}MB",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "15min",
        "wal_compression": "off",
        "synchronous_commit": "on",
        "random_page_cost": "1.1",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_checkpoints": "off",
        "log_min_error_statement": "panic",
    }


def memory_bytes() -> int:
    """The memory of the machine, or of the container where that is less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine
