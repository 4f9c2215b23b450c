"""What runs in the jail: a checkpoint on one descriptor, its tensors out on another.

The result is a safetensors file with the names the checkpoint gives its tensors, and, as metadata, what its modules say of
themselves in plain numbers and words. Nothing of it is trusted: who reads it checks every name, shape and value.
"""

from __future__ import annotations

import encodings.ascii
import encodings.latin_1  # noqa: F401  codecs that would otherwise be imported when nothing can be
import json
import mmap
import os
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

from imaginet_build.converting import inert, jail, torchfiles
from imaginet_build.converting.inert import Record, Tensor, Unreadable

ENTRIES = (
    "G_ema", "g_ema", "generator_smooth", "generator_ema", "ema", "netG_state_dict", "netG", "avgG", "generator", "G", "g",
    "state_dict", "model",
)  # fmt: skip
"""Under which name a checkpoint of several networks keeps the generator to draw with; the first that is there."""
MOST_MODULES = 10_000
LONGEST_NAME = 500
_PERSISTENT = "_reconstruct_persistent_obj"
_MANY = 512


def main() -> None:
    """Read descriptor 3, write descriptor 4, one line of JSON on descriptor 1; never returns."""
    entry = sys.argv[1] if len(sys.argv) > 1 else ""
    size = os.fstat(3).st_size
    answer: dict[str, Any]
    held: list[str] = []
    try:
        data = memoryview(mmap.mmap(3, size, access=mmap.ACCESS_READ)) if size else memoryview(b"")
        # 16 MB a second is far slower than reading is: what takes longer goes round in circles.
        held = jail.close(memory=4 * size + 2**29, seconds=60 + size // 2**24, output=2 * size + 2**24)
        answer = convert(data, entry) | {"held": held}
    except Unreadable as e:
        answer = {"error": str(e), "held": held}
    except MemoryError:
        answer = {"error": "it asks for more memory than its weights can need", "held": held}
    except Exception as e:  # the parent shows it: there is nobody else to tell
        answer = {"error": f"{type(e).__name__}: {str(e)[:200]}", "held": held}
    os.write(1, json.dumps(answer).encode("ascii"))
    # Not the interpreter's own end, which would close and free what hostile bytes have built.
    os._exit(0)


def convert(data: memoryview, entry: str, descriptor: int = 4) -> dict[str, Any]:
    """Read, choose the generator, write it to the descriptor."""
    name, chosen = choose(torchfiles.read(data), entry)
    tensors, modules = describe(chosen)
    if not tensors:
        if any(
            isinstance(part, Record) and "tflib" in part.kind for part in (chosen if isinstance(chosen, tuple) else [chosen])
        ):
            raise Unreadable("networks of TensorFlow: its makers' PyTorch versions, or their legacy.py, give a file to convert")
        raise Unreadable(f"'{name}' holds no weights" if name else "it holds no weights")
    if strange := [key for key in tensors if not _is_name(key)]:
        raise Unreadable(f"it names a tensor {strange[0]!a:.80}, as no network does")
    write(descriptor, tensors, {"modules": modules}, limit=2 * len(data))
    return {"entry": name, "tensors": len(tensors)}


def choose(root: Any, entry: str) -> tuple[str, Any]:
    """The generator among what a checkpoint holds, and under which name."""
    found = root if isinstance(root, dict) else root.items if isinstance(root, Record) and root.items else None
    if found is None or any(isinstance(v, Tensor) for v in found.values()):
        if entry:
            raise Unreadable(f"it holds one network alone, no '{entry:.80}'")
        return "", root
    known = [key[:80] for key in found if isinstance(key, str) and _is_name(key)]
    for name in [entry] if entry else ENTRIES:
        if name in found:
            return name, found[name]
    wanted = f"no '{entry:.80}'" if entry else "none of the usual names of a generator"
    raise Unreadable(f"it holds {', '.join(known[:20]) or 'nothing by name'}, {wanted}: choose one with --entry")


def _is_name(name: str) -> bool:
    """Whether a terminal and a safetensors file can take it: printable, of some length, and not the word for metadata."""
    return name.isprintable() and len(name) <= LONGEST_NAME and name != "__metadata__"


def describe(root: Any) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Tensors by dotted name, and for each module (by its dotted name) its class's name and its plain attributes."""
    if isinstance(root, dict):
        tensors = {str(k): v for k, v in root.items() if isinstance(v, Tensor)}
        return tensors, {}
    tensors, modules = {}, {}
    for path, kind, state in _modules(root):
        own = {str(k): plain(v) for k, v in state.items() if isinstance(k, str) and not k.startswith("_")}
        modules[path] = {"class": kind} | {k: v for k, v in own.items() if v is not None}
        for group in ("_parameters", "_buffers"):
            for key, value in _items(state.get(group)):
                if isinstance(value, Tensor):
                    tensors[f"{path}.{key}" if path else key] = value
    return tensors, modules


def _items(table: Any) -> list[tuple[str, Any]]:
    found = table if isinstance(table, dict) else table.items if isinstance(table, Record) else {}
    return [(k, v) for k, v in found.items() if isinstance(k, str) and "." not in k and k]


def _modules(root: Any) -> Iterator[tuple[str, str, dict[Any, Any]]]:
    """Every module from the outside in, in order: dotted name, class, state. Each object once, so that circles end."""
    todo: deque[tuple[str, Any]] = deque([("", root)])
    seen = {id(root)}
    while todo:
        path, module = todo.popleft()
        kind, state = _state_of(module)
        if state is None:
            continue
        yield path, kind, state
        for key, child in _items(state.get("_modules")):
            if isinstance(child, Record) and id(child) not in seen:
                seen.add(id(child))
                todo.append((f"{path}.{key}" if path else key, child))
                if len(seen) > MOST_MODULES or len(todo[-1][0]) > LONGEST_NAME:
                    raise Unreadable(f"more than {MOST_MODULES} modules, or modules nested without end")


def _state_of(module: Any) -> tuple[str, dict[Any, Any] | None]:
    """A module's class and state, whether torch pickled it or NVIDIA's `persistence`, which keeps both in a table."""
    if not isinstance(module, Record):
        return "", None
    kind, state = module.kind.rpartition(".")[2], module.state
    if kind == _PERSISTENT and module.args:
        meta = module.args[0]
        table = meta if isinstance(meta, dict) else meta.items if isinstance(meta, Record) else {}
        kind, state = str(table.get("class_name", ""))[:100], table.get("state")
    if isinstance(state, Record):
        state = state.items
    return kind, state if isinstance(state, dict) else None


def plain(value: Any, depth: int = 0) -> Any:
    """A number, a word, or a short list of them; None for everything else."""
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else None
    if isinstance(value, str):
        return value if len(value) <= 200 else None
    if isinstance(value, inert.Array):
        value = value.list()
    if isinstance(value, list | tuple) and len(value) <= _MANY and not depth:
        return [plain(v, 1) for v in value]
    return None


def write(descriptor: int, tensors: dict[str, Tensor], facts: dict[str, Any], limit: int) -> None:
    """A safetensors file. Unreadable where its tensors are together larger than `limit` bytes."""
    header: dict[str, Any] = {"__metadata__": {"facts": json.dumps(facts)}}
    at = 0
    for name, tensor in tensors.items():
        size = tensor.storage.width
        for side in tensor.size:
            size *= side
        header[name] = {"dtype": tensor.storage.dtype, "shape": list(tensor.size), "data_offsets": [at, at + size]}
        at += size
    if at > limit:
        raise Unreadable("its tensors repeat each other many times over")
    head = json.dumps(header).encode("ascii")
    head += b" " * (-len(head) % 8)
    _all(descriptor, memoryview(len(head).to_bytes(8, "little") + head))
    for tensor in tensors.values():
        _all(descriptor, tensor.array().reshape(-1).data.cast("B"))


def _all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data[: 2**26]) :]
