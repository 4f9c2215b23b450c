"""Pickles read without running anything: tensors and numbers are rebuilt, every other object becomes an inert record.

A pickle is a programme that calls what it names. Here every name it may call is one of a handful of functions of this
module, or a fresh subclass of `Record`, which only remembers what it was called with. No class is imported, no source that a
pickle carries is compiled.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np

from imaginet_build.errors import BuildError

MOST_NAMES = 10_000
DTYPES = {
    "Float": ("F32", 4), "Half": ("F16", 2), "Double": ("F64", 8), "BFloat16": ("BF16", 2), "Long": ("I64", 8),
    "Int": ("I32", 4), "Short": ("I16", 2), "Char": ("I8", 1), "Byte": ("U8", 1), "Bool": ("BOOL", 1), "Untyped": ("U8", 1),
    "float32": ("F32", 4), "float16": ("F16", 2), "float64": ("F64", 8), "bfloat16": ("BF16", 2), "int64": ("I64", 8),
    "int32": ("I32", 4), "int16": ("I16", 2), "int8": ("I8", 1), "uint8": ("U8", 1), "bool": ("BOOL", 1),
}  # fmt: skip
"""torch's names of storages and of dtypes, as safetensors' name and the bytes of one value."""
_NUMPY = {"f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"}


class Unreadable(BuildError):
    """A file that is not what it should be, or that asks for what no weights need."""


class Record:
    """An object whose class is not rebuilt: its `kind` (module and name), `args`, `state` and `items`."""

    kind = ""
    args: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __new__(cls, *args: Any, **_keywords: Any) -> Record:
        """Remember what it was called with."""
        made = object.__new__(cls)
        made.args, made.state, made.items = args, None, {}
        return made

    def __init__(self, *_args: Any, **_keywords: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """What a pickle gives an object to be restored from."""
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    def append(self, value: Any) -> None:
        """Where the class was a list."""
        self.items[len(self.items)] = value

    def extend(self, values: Any) -> None:
        """Where the class was a list."""
        for value in values:
            self.append(value)

    add = append


class Table(dict[Any, Any]):
    """An ordered dictionary, which may have attributes."""


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A run of values: their safetensors dtype, the bytes of one, and, once known, all bytes."""

    dtype: str
    width: int
    data: memoryview


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A view of a storage; `offset` and `stride` count values."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> np.ndarray[Any, Any]:
        """The values, contiguous, as unsigned integers of their width. Unreadable where the view leaves its storage."""
        width = self.storage.width
        total = 1
        for side in self.size:
            total *= side
        if total * width > len(self.storage.data):
            raise Unreadable(f"a tensor of {list(self.size)} is larger than what the file holds of it")
        try:
            view: np.ndarray[Any, Any] = np.ndarray(
                self.size,
                np.dtype(f"u{width}"),
                self.storage.data if total else b"\0" * width,
                self.offset * width if total else 0,
                tuple(step * width for step in self.stride),
            )
        except (TypeError, ValueError, OverflowError) as e:
            raise Unreadable(f"a tensor of {list(self.size)} does not lie within its storage") from e
        return np.ascontiguousarray(view).reshape(self.size)


def storage_of(kind: object, data: memoryview) -> Storage:
    """A storage from the class or dtype that a file names, such as `torch.FloatStorage` or `torch.float32`."""
    name = getattr(kind, "kind", "").rpartition(".")[2].removesuffix("Storage")
    if name not in DTYPES:
        raise Unreadable(f"values of the unknown kind {getattr(kind, 'kind', type(kind).__name__)!r:.80}")
    dtype, width = DTYPES[name]
    if len(data) % width:
        raise Unreadable(f"{len(data)} bytes are no whole number of {dtype} values")
    return Storage(dtype, width, data)


def load(
    stream: BinaryIO, *, storage: Callable[[Any], Any] | None = None, nested: Callable[[bytes], Storage] | None = None
) -> Any:
    """The object that the pickle at the stream's place describes; the stream is left behind it.

    `storage` answers persistent ids (torch's way to point at values outside the pickle); `nested` reads storages that are
    pickled as bytes within. Unreadable where the pickle is broken or asks for what no weights need.
    """
    return _Reader(stream, storage, nested).load()


class _Reader(pickle.Unpickler):
    """Python's own pickle machine with every name replaced."""

    def __init__(
        self, stream: BinaryIO, storage: Callable[[Any], Any] | None, nested: Callable[[bytes], Storage] | None
    ) -> None:
        super().__init__(stream, encoding="latin-1")
        self._storage = storage
        self._names: dict[tuple[str, str], type[Record]] = {}
        self._known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): Table,
            ("torch._utils", "_rebuild_tensor"): _tensor,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
            ("_codecs", "encode"): _latin,
            **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
            **{(f"numpy.{core}.multiarray", "_reconstruct"): _array for core in ("core", "_core")},
        }
        if nested is not None:
            self._known["torch.storage", "_load_from_bytes"] = nested

    def load(self) -> Any:
        """As `load` says."""
        try:
            return super().load()
        except Unreadable:
            raise
        except MemoryError as e:
            raise Unreadable("the pickle asks for more memory than its weights can need") from e
        except Exception as e:  # whatever broken or hostile bytes lead to: the machine has many ways to say so
            raise Unreadable(f"not a pickle of weights ({type(e).__name__}: {str(e)[:120]})") from e

    def find_class(self, module: str, name: str) -> Any:
        """One of ours, or a record's class; never what is named."""
        key = (str(module), str(name))
        if key in self._known:
            return self._known[key]
        if key not in self._names:
            if len(self._names) >= MOST_NAMES:
                raise Unreadable(f"the pickle names more than {MOST_NAMES} things")
            self._names[key] = cast(type[Record], type("Record", (Record,), {"kind": f"{module}.{name}"[:200]}))
        return self._names[key]

    def persistent_load(self, pid: Any) -> Any:
        """A storage outside the pickle."""
        if self._storage is None:
            raise Unreadable("the pickle points at values outside itself")
        return self._storage(pid)


def _counts(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or len(values) > 16 or not all(type(v) is int and v >= 0 for v in values):
        raise Unreadable("a tensor's size is no list of counts")
    return tuple(values)


def _tensor(storage: object, offset: object, size: object, stride: object, *_rest: object) -> Tensor:
    if not isinstance(storage, Storage) or type(offset) is not int or offset < 0:
        raise Unreadable("a tensor without a storage")
    return Tensor(storage, offset, _counts(size), _counts(stride))


def _typed_tensor(storage: object, offset: object, size: object, stride: object, *rest: object) -> Tensor:
    if not isinstance(storage, Storage) or len(rest) < 3:
        raise Unreadable("a tensor without a storage")
    return _tensor(storage_of(rest[2], storage.data), offset, size, stride)


def _parameter(data: object, *_rest: object) -> object:
    return data


def _latin(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Unreadable("text in an encoding that no pickle needs")
    return text.encode("latin-1")


def _numpy_type(kind: object) -> np.dtype[Any] | None:
    """The type that a record of `numpy.dtype` stands for, if it is of plain numbers."""
    if not isinstance(kind, Record) or kind.kind != "numpy.dtype" or not kind.args or kind.args[0] not in _NUMPY:
        return None
    big = isinstance(kind.state, tuple) and len(kind.state) > 1 and kind.state[1] == ">"
    found: np.dtype[Any] = np.dtype(kind.args[0]).newbyteorder(">" if big else "<")
    return found


def _scalar(kind: object, data: object = b"") -> object:
    found = _numpy_type(kind)
    if found is None or not isinstance(data, bytes) or len(data) != found.itemsize:
        return None
    return np.frombuffer(data, found)[0].item()


class Array(Record):
    """An array of numpy."""

    def list(self) -> list[Any] | None:
        """Its values, if they are a few plain numbers along one axis."""
        state = self.state
        if not isinstance(state, tuple) or len(state) < 5 or not isinstance(state[1], tuple) or len(state[1]) != 1:
            return None
        found, data = _numpy_type(state[2]), state[4]
        if found is None or not isinstance(data, bytes) or len(data) > 4096 or len(data) % found.itemsize:
            return None
        values: list[Any] = np.frombuffer(data, found).tolist()
        return values


def _array(*_args: object) -> Record:
    return Array()
