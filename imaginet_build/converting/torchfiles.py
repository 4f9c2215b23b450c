"""The containers checkpoints come in: torch's zip files, its older sequence of pickles, plain pickles."""

from __future__ import annotations

import io
import zipfile
from typing import Any, BinaryIO, cast

from imaginet_build.converting import inert
from imaginet_build.converting.inert import Storage, Unreadable

MAGIC = 0x1950A86A20F9469CFC6C
"""The number that torch's files before 1.6 begin with, as a pickle."""
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_LOCAL_HEADER = 30


def read(data: memoryview) -> Any:
    """What the file holds, with `inert.Tensor` for tensors and `inert.Record` for objects. Raises Unreadable."""
    start = bytes(data[:16])
    if start.startswith(b"PK\x03\x04"):
        return _zip(data)
    if start.startswith(LEGACY):
        return _legacy(data)
    if start.startswith(b"\x80"):
        return inert.load(_stream(data), nested=_nested)
    raise Unreadable("neither a pickle nor a checkpoint of torch: its first bytes are of neither")


def _stream(data: memoryview) -> BinaryIO:
    return cast(BinaryIO, _Window(data))


class _Window(io.RawIOBase):
    """A file over bytes that are mapped, not copied. It has neither `peek` nor a buffer, so that pickles end where they end."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._at = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._at, len(self._data))[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        end = len(self._data) if size is None or size < 0 else self._at + size
        found = bytes(self._data[self._at : end])
        self._at += len(found)
        return found

    def readinto(self, buffer: Any) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def readline(self, _size: int | None = -1) -> bytes:
        # Only opcodes of old protocols end at a line's end, and theirs are short.
        ahead = bytes(self._data[self._at : self._at + 65_536])
        found = ahead[: ahead.find(b"\n") + 1] if b"\n" in ahead else ahead
        self._at += len(found)
        return found


def _is_module(pid: object) -> bool:
    """Whether an old checkpoint's persistent id stands for a class, with its source, rather than for a storage."""
    return isinstance(pid, tuple) and len(pid) > 1 and pid[0] in ("module", b"module")


def _persistent(pid: object) -> tuple[Any, str, int]:
    """The parts of torch's persistent id that matter: kind of storage, key, number of values."""
    if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] not in ("storage", b"storage") or type(pid[4]) is not int:
        raise Unreadable("it points at something that is no storage")
    return pid[1], str(pid[2]), pid[4]


def _zip(data: memoryview) -> Any:
    """torch's format since 1.6: `<name>/data.pkl`, and each storage as `<name>/data/<key>`, none of it compressed."""
    try:
        archive = zipfile.ZipFile(_stream(data))
        names = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as e:
        raise Unreadable(f"a zip file that is damaged ({e})") from e
    roots = [name.removesuffix("data.pkl") for name in names if name.count("/") <= 1 and name.endswith("data.pkl")]
    if len(roots) != 1:
        raise Unreadable("a zip file, but not one that torch.save writes")

    def member(name: str) -> memoryview:
        info = names.get(name)
        if info is None or info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise Unreadable(f"its part {name!r:.100} is missing, compressed or encrypted")
        head = bytes(data[info.header_offset : info.header_offset + _LOCAL_HEADER])
        begin = (
            info.header_offset + _LOCAL_HEADER + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        )
        found = data[begin : begin + info.file_size]
        if head[:4] != b"PK\x03\x04" or len(found) != info.file_size:
            raise Unreadable(f"its part {name!r:.100} is cut off")
        return found

    if (order := names.get(f"{roots[0]}byteorder")) and bytes(member(order.filename)) != b"little":
        raise Unreadable("its values are in big-endian order")
    seen: dict[str, Storage] = {}

    def storage(pid: object) -> Storage:
        kind, key, _count = _persistent(pid)
        if key not in seen:
            seen[key] = inert.storage_of(kind, member(f"{roots[0]}data/{key}"))
        return seen[key]

    return inert.load(_stream(member(f"{roots[0]}data.pkl")), storage=storage)


def _legacy(data: memoryview) -> Any:
    """torch's format before 1.6, still that of pickled tensors: four pickles, the keys of storages, then their values."""
    stream = _stream(data)
    magic, protocol, machine = (inert.load(stream) for _ in range(3))
    if magic != MAGIC or protocol != 1001 or not (isinstance(machine, dict) and machine.get("little_endian") is True):
        raise Unreadable("an old checkpoint of torch of an unknown version or in big-endian order")
    begin = stream.tell()
    places: dict[str, Storage] = {}
    kinds: dict[str, tuple[Any, int]] = {}

    def first(pid: object) -> Any:
        if _is_module(pid):
            return pid[1]  # type: ignore[index]
        kind, key, count = _persistent(pid)
        if len(pid) > 5 and pid[5] is not None:  # type: ignore[arg-type, index]
            raise Unreadable("its storages are views of others, as only very old files have them")
        kinds[key] = (kind, count)
        return Storage("U8", 1, memoryview(b""))

    # Values come after the pickle that points at them: a first reading says which there are, a second has them.
    inert.load(stream, storage=first)
    keys = inert.load(stream)
    at = stream.tell()
    if not isinstance(keys, list):
        raise Unreadable("an old checkpoint of torch without its list of storages")
    for key in map(str, keys):
        kind, count = kinds.get(key, (None, 0))
        held = int.from_bytes(bytes(data[at : at + 8]), "little")
        width = inert.storage_of(kind, memoryview(b"")).width
        values = data[at + 8 : at + 8 + held * width]
        if held != count or len(values) != held * width:
            raise Unreadable("an old checkpoint of torch that is cut off")
        places[key] = inert.storage_of(kind, values)
        at += 8 + held * width
    stream.seek(begin)

    def second(pid: object) -> Any:
        if _is_module(pid):
            return pid[1]  # type: ignore[index]
        key = _persistent(pid)[1]
        if key not in places:
            raise Unreadable("it points at a storage that it does not hold")
        return places[key]

    return inert.load(stream, storage=second)


def _nested(data: object) -> Storage:
    """A storage that was pickled by itself, as tensors in plain pickles are."""
    view = memoryview(data) if isinstance(data, bytes) else memoryview(b"")
    # Neither form reads bytes within bytes again: one level is all there is.
    found = _legacy(view) if bytes(view[:16]).startswith(LEGACY) else _zip(view) if bytes(view[:4]) == b"PK\x03\x04" else None
    if not isinstance(found, Storage):
        raise Unreadable("a tensor whose values are not those of a storage")
    return found
