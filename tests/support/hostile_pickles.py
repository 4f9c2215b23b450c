"""Pickles that mean harm, each as bytes: what running them would do must not happen, and reading them must end."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any


class _Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def running(marker: Path) -> dict[str, bytes]:
    """Those that would run something; each would leave the file `marker`."""
    line = f"open({str(marker)!r}, 'w').close()"
    command = f"touch {marker}"
    system = b"cos\nsystem\n" + _text(command) + b"\x85R"
    return {
        "os.system": pickle.dumps({"G_ema": _Call(os.system, command)}),
        "eval": pickle.dumps({"G_ema": _Call(builtins.eval, line)}),
        "exec": pickle.dumps({"G_ema": _Call(builtins.exec, line)}),
        "an old protocol": b"\x80\x02" + system + b".",
        # getattr(__import__("os"), "system")(command), each step a call of what the last one gave
        "getattr": b"\x80\x04c__builtin__\ngetattr\n(cbuiltins\n__import__\n" + _text("os") + b"\x85R" + _text("system")
        + b"tR" + _text(command) + b"\x85R.",
        # the state of a class of ours replaced, and the class then used
        "a class taken over": b"\x80\x04cos\nsystem\n}" + _text("__setstate__") + b"cposix\nsystem\nsb0" + system + b".",
    }  # fmt: skip


def _text(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _bytes(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


def _number(value: object) -> bytes:
    return pickle.dumps(value, 2)[2:-1]


def bombs() -> dict[str, bytes]:
    """Those that ask for memory, time or depth without end."""
    laughs = b"\x80\x04]\x94" + b"".join(b"]" + (b"h" + bytes([i]) + b"a") * 2 + b"\x94" for i in range(200))
    return {
        "a memo of two thousand million": b"\x80\x04N" + b"r" + struct.pack("<I", 2**31 - 1) + b".",
        "bytes of an exabyte": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.",
        "a byte array of a terabyte": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
        "text of four gigabytes": b"\x80\x04X" + struct.pack("<I", 2**32 - 1) + b"x.",
        "lists within lists": laughs + b".",
        "tuples a million deep": b"\x80\x04)" + b"\x85" * 1_000_000 + b".",
        "names without end": b"\x80\x04" + b"".join(b"cm\nn%d\n0" % i for i in range(20_000)) + b"N.",
        "a tensor larger than its values": tensor(4, (2**40,), (1,)),
        "a tensor that repeats one value": tensor(4, (2**20, 2**20), (0, 0)),
        "a tensor before its values": tensor(4, (2,), (-1,)),
        "a tensor of more sides than there are": tensor(4, (1,) * 64, (1,) * 64),
        "storages within storages": storages(50),
        "a network within itself": circle(),
        "networks within each other": tangle(1500),
        "a compressed zip": _zip(zipfile.ZIP_DEFLATED, b"\0" * 50_000_000),
        "a zip without its values": _zip(zipfile.ZIP_STORED, None),
    }


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _storage(count: int) -> bytes:
    """A pickled storage of floats, as torch writes it within pickles."""
    import torch

    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(torch.zeros(count).storage(), stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def tensor(count: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """`{"weight": tensor}` with a storage of `count` values and any size and stride."""
    values = _global("torch.storage", "_load_from_bytes") + _bytes(_storage(count)) + b"\x85R"
    rest = b"".join(_number(value) for value in (0, size, stride, False))
    made = _global("torch._utils", "_rebuild_tensor_v2") + b"(" + values + rest + b"tR"
    return b"\x80\x04}" + _text("weight") + made + b"s."


def storages(depth: int) -> bytes:
    """A storage pickled as bytes within a storage pickled as bytes, and so on."""
    data = _storage(1)
    for _ in range(depth):
        data = b"\x80\x04" + _global("torch.storage", "_load_from_bytes") + _bytes(data) + b"\x85R."
    return data


def circle() -> bytes:
    """A module whose child is itself."""
    made = _global("torch.nn.modules.module", "Module") + b")\x81\x94"
    return b"\x80\x04" + made + b"}" + _text("_modules") + b"}" + _text("child") + b"h\x00ssb."


def tangle(count: int) -> bytes:
    """Modules of which each has all others for children, by one table that they share."""
    made = _global("torch.nn.modules.module", "Module") + b")\x81}" + _text("_modules") + b"h\x00sb"
    return b"\x80\x04}\x94(" + b"".join(_text(f"m{i}") + made for i in range(count)) + b"u0" + made + b"."


def _zip(method: int, values: bytes | None) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        parts = _text("storage") + _global("torch", "FloatStorage") + _text("0") + _text("cpu") + _number(12_500_000)
        storage = b"(" + parts + b"tQ"
        rest = b"".join(_number(value) for value in (0, (12_500_000,), (1,), False))
        made = _global("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + rest + b"tR"
        archive.writestr("archive/data.pkl", b"\x80\x02}" + _text("weight") + made + b"s.")
        if values is not None:
            archive.writestr("archive/data/0", values)
    return stream.getvalue()


def damaged() -> dict[str, bytes]:
    """Files that are no checkpoints."""
    whole = pickle.dumps({"weight": list(range(1000))})
    return {
        "nothing": b"",
        "a page of the web": b"<!DOCTYPE html><title>404</title>",
        "cut off": whole[: len(whole) // 2],
        "no weights": pickle.dumps({"G_ema": {"learning_rate": 0.002}}),
        "a number": pickle.dumps(3),
        "a zip of something else": b"PK\x03\x04" + b"\0" * 100,
        "old and cut off": _storage(100)[:-8],
    }
