"""A process that can only compute, and read and write what it holds open: no network, no file, no other programme.

What the system offers is used together: limits of memory, time and output everywhere; on Linux a network namespace of its own
without any interface, and a seccomp filter that allows a few dozen system calls and none that opens, connects or
starts anything; and an audit hook within Python, which is all there is elsewhere. `close` says what was achieved.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
import sys
from typing import Any

_CALLS = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "dup": (32, 23),
    "getpid": (39, 172),
    "exit": (60, 93),
    "ftruncate": (77, 46),
    "gettimeofday": (96, 169),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "clock_gettime": (228, 113),
    "exit_group": (231, 94),
    "newfstatat": (262, 79),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "rseq": (334, 293),
}
"""The system calls that computing, and reading and writing open files, need: their numbers on x86-64 and on 64-bit ARM."""
_MACHINES = {"x86_64": (0xC000003E, 0, 317), "aarch64": (0xC00000B7, 1, 277)}
"""AUDIT_ARCH, the column of `_CALLS`, and the number of seccomp itself, by linux/audit.h and asm/unistd.h."""
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_NO_NEW_PRIVILEGES, _FILTER, _ALL_THREADS = 38, 1, 1
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1
_FORBIDDEN = (
    "socket.", "subprocess.", "os.", "shutil.", "ctypes.", "pty.", "urllib.", "http.", "ftplib.", "webbrowser.", "fcntl.",
)  # fmt: skip
_FORBIDDEN_ALONE = frozenset({"open", "import", "compile", "exec"})


def close(memory: int, seconds: int, output: int) -> list[str]:
    """Shut this process in, for good; import everything before. Returns what holds: limits, namespace, seccomp, audit.

    `memory`: bytes of address space beyond today's; `seconds`: of processor time; `output`: bytes in any file.
    """
    held = [_limits(memory, seconds, output), _namespace(), _seccomp(), _audit()]
    return [name for name in held if name]


def _limits(memory: int, seconds: int, output: int) -> str | None:
    try:
        import resource
    except ImportError:
        return None
    wanted = {"RLIMIT_CPU": seconds, "RLIMIT_FSIZE": output, "RLIMIT_CORE": 0}
    if sys.platform == "linux":
        wanted["RLIMIT_AS"] = _address_space() + memory
    for name, value in wanted.items():
        kind = getattr(resource, name)
        _soft, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (value, value) if hard == resource.RLIM_INFINITY else (min(value, hard), hard))
    return "limits"


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  pathlib would be one import more
        return int(file.read().split()[0]) * mmap.PAGESIZE


def _namespace() -> str | None:
    """A network of its own with nothing in it, where unprivileged user namespaces are allowed."""
    if sys.platform != "linux":
        return None
    return "namespace" if ctypes.CDLL(None, use_errno=True).unshare(_NEW_USER | _NEW_NET) == 0 else None


def _seccomp() -> str | None:
    """Every system call but `_CALLS` fails with EPERM from here on."""
    machine = _MACHINES.get(platform.machine())
    if sys.platform != "linux" or machine is None:
        return None
    arch, column, seccomp = machine
    code = _programme(arch, [numbers[column] for numbers in _CALLS.values()])
    libc = ctypes.CDLL(None, use_errno=True)
    held = ctypes.create_string_buffer(code, len(code))
    programme = _Programme(len(code) // 8, ctypes.addressof(held))
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.syscall(seccomp, _FILTER, _ALL_THREADS, ctypes.byref(programme)):
        return None
    return "seccomp"


class _Programme(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def _programme(arch: int, numbers: list[int]) -> bytes:
    """The filter in classic BPF: another architecture is refused, a number of the list allowed, the rest refused."""
    load, jump, leave = 0x20, 0x15, 0x06
    count = len(numbers)
    lines = [(load, 0, 0, 4), (jump, 0, count + 1, arch), (load, 0, 0, 0)]
    lines += [(jump, count - i, 0, number) for i, number in enumerate(numbers)]
    lines += [(leave, 0, 0, _REFUSE), (leave, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _audit() -> str:
    def hook(event: str, _arguments: tuple[Any, ...]) -> None:
        if event in _FORBIDDEN_ALONE or event.startswith(_FORBIDDEN):
            raise PermissionError(f"{event}: nothing of the kind is done while a pickle is read")

    sys.addaudithook(hook)
    return "audit"
