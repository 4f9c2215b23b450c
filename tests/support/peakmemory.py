"""The most memory a process has held, asked in a way that a child does not inherit from the process that started it."""

from __future__ import annotations

from pathlib import Path

CODE = """
def peak():
    return 1024 * int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
"""The same for a program of its own. (`ru_maxrss` of a fresh process begins at that of its parent, here a test runner.)"""


def reset() -> None:
    """Begin anew: the peak is what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes of resident memory at the highest, since the process began or since `reset`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
