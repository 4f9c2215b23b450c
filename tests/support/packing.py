"""Archives of every kind for tests, honest and not."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TARS = {".tar": "w", ".tar.gz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
KINDS = [*TARS, ".tar.zst", ".zip", ".7z", ".parquet"]


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def tar(path: Path, files: Mapping[str, bytes], mode: str = "w", **settings: object) -> Path:
    with tarfile.open(path, mode, **settings) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            archive.addfile(member(name, len(data)), io.BytesIO(data))
    return path


def zipped(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def parquet(path: Path, images: Mapping[str, bytes], rows: int = 3, **columns: list) -> Path:
    """A file whose rows are `images`, `rows` to a row group."""
    values = pa.array([{"bytes": data, "path": name} for name, data in images.items()])
    pq.write_table(pa.table({"image": values, **columns}), path, row_group_size=rows)
    return path


def pack(folder: Path, kind: str, files: Mapping[str, bytes]) -> Path:
    """The files as one archive `set<kind>`; a Parquet file takes the images alone."""
    path = folder / f"set{kind}"
    if kind in TARS:
        return tar(path, files, TARS[kind])
    if kind == ".tar.zst":
        tar(folder / "plain", files)
        with pa.CompressedOutputStream(str(path), "zstd") as out:
            out.write((folder / "plain").read_bytes())
        return path
    if kind == ".zip":
        return zipped(path, files)
    if kind == ".parquet":
        return parquet(path, {name: data for name, data in files.items() if name.endswith((".jpg", ".png"))})
    import py7zr

    with py7zr.SevenZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(data, name)
    return path


def cut(path: Path, parts: int) -> list[Path]:
    """The file in numbered parts; it is gone afterwards."""
    data = path.read_bytes()
    path.unlink()
    size = -(-len(data) // parts)
    made = [path.with_name(f"{path.name}.{n + 1:03d}") for n in range(parts)]
    for n, part in enumerate(made):
        part.write_bytes(data[n * size : (n + 1) * size])
    return made
