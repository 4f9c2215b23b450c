"""Once shut in, a process can compute and use what it holds open, and nothing else, by each of the means alone."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ATTEMPTS = {
    "a connection": "socket.create_connection(('127.0.0.1', 9), timeout=5)",
    "a socket": "socket.socket()",
    "a file to read": "open('/etc/passwd').read()",
    "a file to write": "open('written', 'w')",
    "a file by its number": "os.open('written', os.O_CREAT | os.O_WRONLY)",
    "another programme": "subprocess.run(['true'])",
    "a shell": "if os.system('touch written'): raise PermissionError",
    "a copy of itself": "os._exit(0) if os.fork() == 0 else print('forked')",
    "removing a file": "os.unlink('here')",
    "a signal to others": "os.kill(os.getppid(), 0)",
    "a signal by a descriptor": "fcntl.fcntl(1, fcntl.F_SETOWN, os.getppid())",
}
STATUS = Path("/proc/self/status")
SECCOMP = platform.machine() in ("x86_64", "aarch64") and STATUS.exists() and "\nSeccomp:" in STATUS.read_text()


def run(tmp_path, code: str, without: str = "") -> subprocess.CompletedProcess[str]:
    (tmp_path / "here").touch()
    lines = [
        "import fcntl, os, socket, subprocess, sys",
        "from imaginet_build.converting import jail",
        *([f"jail.{without} = lambda *a: None"] if without else []),
        "held = jail.close(memory=2**28, seconds=20, output=2**20)",
        "try:",
        f"    {code}",
        "except (OSError, RuntimeError, MemoryError) as e:",
        "    os.write(1, ('refused ' + type(e).__name__ + ' ' + ','.join(h for h in held if h)).encode())",
        "    os._exit(0)",
        "os.write(1, b'done ' + ','.join(h for h in held if h).encode())",
        "os._exit(0)",
    ]
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("what", ATTEMPTS)
@pytest.mark.parametrize("without", ["_audit", "_seccomp"])
def test_refused_by_the_system_and_by_python_each_alone(what, without, tmp_path):
    if without == "_audit" and not SECCOMP:
        pytest.skip("this kernel has no seccomp, or its numbers are not known here")
    done = run(tmp_path, ATTEMPTS[what], without)
    assert done.stdout.startswith("refused PermissionError"), done.stdout + done.stderr
    assert (tmp_path / "here").exists()
    assert not (tmp_path / "written").exists()


def test_it_says_what_holds(tmp_path):
    held = run(tmp_path, "sum(range(10))").stdout
    assert held.startswith("done limits")
    assert held.endswith("audit")
    assert ("seccomp" in held) == SECCOMP


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux alone")
def test_memory_has_an_end(tmp_path):
    assert run(tmp_path, "bytes(2**30)").stdout.startswith("refused MemoryError")
