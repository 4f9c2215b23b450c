"""Archives from strangers: each evil is a clear refusal, in bounded time and memory, and the rest goes on."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import peakmemory
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packing import KINDS, member, pack, parquet, tar, zipped
from pictures import bomb, jpeg, write

from imaginet_build.collectors import archive, members, pages
from imaginet_build.collectors.archive import Archive
from imaginet_build.collectors.members import Seen
from imaginet_build.errors import BuildError
from imaginet_build.records import Found, Refusal, Want

GOOD = {f"good/{n}.jpg": jpeg(f"good {n}", 48, 40) for n in range(6)}
JPEG = GOOD["good/0.jpg"]


def answers(root: Path, **settings) -> tuple[list[bytes], dict[str, str]]:
    """The bytes delivered, and key -> reason; every refusal says more than its reason, in one line."""
    found = list(Archive(str(root), **({"origin": "real"} | settings)).find(Want("archive", None, 0)))
    refused = {item.source_key: item for item in found if isinstance(item, Refusal)}
    for key, refusal in refused.items():
        assert refusal.detail
        assert (key + refusal.detail).isprintable()
        key.encode()
    return [item.data for item in found if isinstance(item, Found)], {key: item.reason for key, item in refused.items()}


def tar_of(path: Path, infos: list[tarfile.TarInfo], mode: str = "w") -> Path:
    """The infos between honest images."""
    with tarfile.open(path, mode) as archive:
        for name in ("good/0.jpg", "good/1.jpg"):
            archive.addfile(member(name, len(GOOD[name])), io.BytesIO(GOOD[name]))
            for info in infos if name.endswith("0.jpg") else ():
                archive.addfile(info, io.BytesIO(JPEG) if info.size else None)
    return path


# --- names and kinds ---------------------------------------------------------------------------------------------------

UNSAFE = [
    "../evil.jpg",
    "a/../../evil.jpg",
    "/etc/evil.jpg",
    "C:\\evil.jpg",
    "..\\evil.jpg",
    "a/line\nbreak.jpg",
    "x" * 2000 + ".jpg",
]


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("kind", [".tar", ".zip"])
def test_a_name_that_leads_out_is_refused(tmp_path, name, kind):
    files = {"good/0.jpg": JPEG, name: JPEG, "good/1.jpg": JPEG}
    found, reasons = answers(pack(tmp_path, kind, files))
    assert len(found) == 2
    assert list(reasons.values()) == ["unsafe-name"]
    assert not any(path.name.startswith("evil") for path in tmp_path.parent.rglob("*evil*"))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (tarfile.SYMTYPE, "link"), (tarfile.LNKTYPE, "link"), (tarfile.CHRTYPE, "not-a-file"), (tarfile.BLKTYPE, "not-a-file"),
        (tarfile.FIFOTYPE, "not-a-file"),
    ],
)  # fmt: skip
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind, reason):
    found, reasons = answers(tar_of(tmp_path / "set.tar", [member("evil.jpg", 0, kind, "/etc/passwd")]))
    assert len(found) == 2
    assert reasons == {"set.tar/evil.jpg": reason}


def test_links_and_devices_in_a_zip_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, mode in (("link.jpg", 0o120777), ("device.jpg", 0o020666), ("pipe.jpg", 0o010666), ("plain.jpg", 0o100644)):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, mode << 16
            archive.writestr(info, JPEG)
    found, reasons = answers(tmp_path / "set.zip")
    assert found == [JPEG]
    assert reasons == {"set.zip/link.jpg": "link", "set.zip/device.jpg": "not-a-file", "set.zip/pipe.jpg": "not-a-file"}


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".zip"])
def test_the_second_member_of_a_name_is_refused(tmp_path, kind, recwarn):
    path = tmp_path / f"set{kind}"
    if kind == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for data in (JPEG, b"other"):
                archive.writestr("a.jpg", data)
        recwarn.clear()
    else:
        with tarfile.open(path, "w" if kind == ".tar" else "w:gz") as archive:
            for data in (JPEG, b"other"):
                archive.addfile(member("a.jpg", len(data)), io.BytesIO(data))
    assert answers(path) == ([JPEG], {f"set{kind}/a.jpg#2": "listed-twice"})


def test_the_second_member_of_a_name_in_a_7z_is_refused_and_the_first_is_not(tmp_path):
    import py7zr

    with py7zr.SevenZipFile(tmp_path / "set.7z", "w") as archive:
        for data in (JPEG, b"other", b"third"):
            archive.writestr(data, "a.jpg")
        archive.writestr(JPEG, "b.jpg")
    twice = {"set.7z/a.jpg#2": "listed-twice", "set.7z/a.jpg#3": "listed-twice"}
    assert answers(tmp_path / "set.7z") == ([JPEG, JPEG], twice)


def test_names_that_are_not_utf8_are_refused_and_old_zips_are_read_by_the_old_code_page(tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        archive.addfile(member("caf\xe9.jpg", len(JPEG)), io.BytesIO(JPEG))
        archive.addfile(member("good.jpg", len(JPEG)), io.BytesIO(JPEG))
    assert answers(tmp_path / "set.tar") == ([JPEG], {"set.tar/caf\\udce9.jpg": "name-not-utf8"})
    path = zipped(tmp_path / "set.zip", {"caf_.jpg": JPEG})
    old = path.read_bytes().replace(b"caf_", b"caf\x82")
    path.write_bytes(old)
    assert answers(path)[0] == [JPEG]
    at = old.index(b"PK\1\2") + 8
    path.write_bytes(old[:at] + struct.pack("<H", 0x800) + old[at + 2 :])
    assert list(answers(path)[1].values()) == ["name-not-utf8"]


# --- bombs -------------------------------------------------------------------------------------------------------------


def packed_zeros(kind: str, size: int) -> bytes:
    """A tar with one member of `size` zeros, packed as small as it goes, without ever holding it."""
    packer = {".gz": zlib.compressobj(9, wbits=31), ".bz2": bz2.BZ2Compressor(9), ".xz": lzma.LZMACompressor()}[kind]
    header = member("zeros.jpg", size).tobuf()
    block = bytes(2**22)
    return b"".join([packer.compress(header), *(packer.compress(block) for _ in range(size // len(block))), packer.flush()])


@pytest.mark.parametrize(("kind", "size"), [(".gz", 2**27), (".bz2", 2**27), (".xz", 2**27)])
def test_a_packed_bomb_ends_in_time_and_memory(tmp_path, kind, size):
    data = packed_zeros(kind, size)
    assert len(data) < size / 900
    write(tmp_path / f"bomb.tar{kind}", data)
    peakmemory.reset()
    before, start = peakmemory.peak(), time.process_time()
    assert answers(tmp_path / f"bomb.tar{kind}") == ([], {f"bomb.tar{kind}": "bomb"})
    assert time.process_time() - start < 5
    assert peakmemory.peak() - before < 300_000_000


def test_ten_gigabytes_behind_ten_kilobytes_are_one_refusal(tmp_path):
    """One short bzip2 stream of zeros, again and again, as one member whose size is true."""
    packer, block = bz2.BZ2Compressor(9), bytes(900_000)
    one = packer.compress(block * 50) + packer.flush()
    stream = one * (10 * 2**30 // (50 * len(block)) + 1)
    write(tmp_path / "bomb.tar.bz2", bz2.compress(member("zeros.jpg", 10 * 2**30).tobuf()) + stream)
    assert (tmp_path / "bomb.tar.bz2").stat().st_size < 20_000
    start = time.process_time()
    found, reasons = answers(tmp_path / "bomb.tar.bz2")
    assert (found, set(reasons.values())) == ([], {"too-large", "bomb"})
    assert time.process_time() - start < 10


def test_a_zip_member_that_would_grow_too_much_is_refused_unread_and_the_rest_goes_on(tmp_path):
    found, reasons = answers(zipped(tmp_path / "set.zip", {**GOOD, "zeros.jpg": bytes(2**24)}))
    assert found == list(GOOD.values())
    assert reasons == {"set.zip/zeros.jpg": "bomb"}


def overlapping(count: int) -> bytes:
    """A zip whose members all share the same bytes (D. Fifield, 'A better zip bomb', 2019)."""
    data = bytes(2**21)
    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(data) + packer.flush() + bytes(20_000)
    fields = struct.pack("<HHHHHIII", 20, 0, 8, 0, 0, zlib.crc32(data), len(packed), len(data))
    local = b"PK\3\4" + fields + struct.pack("<HH", 5, 0) + b"0.jpg" + packed
    entry = b"PK\1\2" + struct.pack("<H", 20) + fields + struct.pack("<HHHHHII", 5, 0, 0, 0, 0, 0, 0) + b"0.jpg"
    directory = entry * count
    return local + directory + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(local), 0)


def test_members_that_share_bytes_are_a_bomb(tmp_path):
    write(tmp_path / "set.zip", overlapping(5000))
    start = time.process_time()
    _, reasons = answers(tmp_path / "set.zip")
    assert reasons["set.zip"] == "bomb"
    assert time.process_time() - start < 2


@pytest.mark.parametrize("kind", [".tar", ".zip", ".7z"])
def test_archives_inside_are_not_opened(tmp_path, kind):
    inner = zipped(tmp_path / "inner", {"0.jpg": bytes(2**20)}).read_bytes()
    files = {**GOOD, "nested.zip": inner, "again/nested.tar.gz": gzip.compress(bytes(4096)), "deep.7z": b"7z"}
    (tmp_path / "inner").unlink()
    found, reasons = answers(pack(tmp_path, kind, files))
    assert found == list(GOOD.values())
    assert set(reasons) == {f"set{kind}/{name}" for name in ("nested.zip", "again/nested.tar.gz", "deep.7z")}
    assert set(reasons.values()) == {"nested-archive"}


def test_a_7z_that_would_grow_too_much_is_refused_before_it_is_unpacked(tmp_path):
    path = pack(tmp_path, ".7z", {f"{n}.jpg": bytes(2**25) for n in range(3)})
    assert path.stat().st_size < 100_000
    assert answers(path) == ([], {"set.7z": "bomb"})


def test_a_parquet_page_that_would_grow_too_much_is_refused_and_other_row_groups_are_read(tmp_path):
    schema = pa.schema([("image", pa.binary())])
    with pq.ParquetWriter(tmp_path / "set.parquet", schema, compression="zstd") as writer:
        writer.write_table(pa.table({"image": [JPEG, JPEG]}, schema))
        writer.write_table(pa.table({"image": [bytes(2**26 + 1)]}, schema))
        writer.write_table(pa.table({"image": [JPEG]}, schema))
    found, reasons = answers(tmp_path / "set.parquet")
    assert len(found) == 3
    assert reasons == {"set.parquet/row-group-1": "bomb"}


def varint(number: int, width: int = 0) -> bytes:
    """A Thrift integer (compact protocol), in more bytes than it needs if so wanted."""
    value, out = number << 1, bytearray()
    while True:
        value, low = value >> 7, value & 127
        if not value and len(out) + 1 >= width:
            return bytes([*out, low])
        out.append(low | 128)


def test_a_parquet_footer_that_lies_about_a_bomb_is_found_out_before_the_page_is_unpacked(tmp_path):
    path = tmp_path / "set.parquet"
    table = pa.table({"image": pa.array([JPEG, bytes(2**26 + 1)], pa.binary())})
    pq.write_table(table, path, row_group_size=1, compression="zstd", use_dictionary=False, write_statistics=False)
    stated = pq.ParquetFile(path).metadata.row_group(1)
    data = path.read_bytes()
    for size in {stated.column(0).total_uncompressed_size, stated.total_byte_size}:
        data = data.replace(varint(size), varint(30_000, len(varint(size))))
    path.write_bytes(data)
    assert pq.ParquetFile(path).metadata.row_group(1).column(0).total_uncompressed_size == 30_000
    assert answers(path) == ([JPEG], {"set.parquet/row-group-1": "bomb"})


def repeated(path: Path, size: int, rows: int, column: str = "image", **written) -> Path:
    """A row group whose rows share one value, behind an honest one and before another; a few kilobytes in all."""
    schema = pa.schema([("image", pa.binary()), ("said", pa.binary())])
    values = {"image": [b"x"] * rows, "said": [b"x"] * rows, column: [bytes(size)] * rows}
    with pq.ParquetWriter(path, schema, compression="zstd", **written) as writer:
        writer.write_table(pa.table({"image": [JPEG, JPEG], "said": [b"a", b"b"]}, schema))
        writer.write_table(pa.table(values, schema))
        writer.write_table(pa.table({"image": [JPEG], "said": [b"c"]}, schema))
    assert path.stat().st_size < 40_000
    return path


@pytest.mark.parametrize("count", [None, 2])
@pytest.mark.parametrize("column", ["image", "said"])
def test_rows_that_share_one_large_value_of_a_dictionary_are_a_bomb(tmp_path, column, count):
    path = repeated(tmp_path / "set.parquet", 2**22, 40, column, dictionary_pagesize_limit=2**30)
    found = list(Archive(str(path), origin="real", caption="said").find(Want("archive", None, 0, count=count)))
    assert sorted(item.data for item in found if isinstance(item, Found)) == [JPEG] * 3
    (refusal,) = [item for item in found if isinstance(item, Refusal)]
    assert (refusal.source_key, refusal.reason) == ("set.parquet/row-group-1", "bomb")
    assert "its rows share bytes" in refusal.detail


def test_rows_that_share_a_beginning_are_a_bomb(tmp_path):
    """DELTA_BYTE_ARRAY stores of each value only what differs from the one before."""
    written = {"use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY"}}
    path = repeated(tmp_path / "set.parquet", 2**22, 40, **written)
    found, reasons = answers(path)
    assert found == [JPEG] * 3
    assert reasons == {"set.parquet/row-group-1": "bomb"}


def test_lists_that_name_one_large_value_many_times_are_not_opened(tmp_path):
    lists = pa.ListArray.from_arrays([0, 40], pa.DictionaryArray.from_arrays(pa.array([0] * 40, pa.int32()), ["x" * 2**22]))
    table = pa.table({"image": [JPEG], "said": lists.cast(pa.list_(pa.string()))})
    pq.write_table(table, tmp_path / "set.parquet", compression="zstd", dictionary_pagesize_limit=2**30)
    found, reasons = answers(tmp_path / "set.parquet", caption="said")
    assert (found, reasons) == ([], {"set.parquet/row-group-0": "bomb"})


def test_the_same_picture_in_many_rows_is_no_bomb(tmp_path):
    """Twice the limit by what its pages state, and far below it by what they come to."""
    noise, small = random_bytes(1) * 10, b"\xff\xd8\xff small"
    pq.write_table(pa.table({"image": [noise] * 4 + [small] * 700}), tmp_path / "set.parquet", use_dictionary=True)
    found, reasons = answers(tmp_path / "set.parquet")
    assert (found, reasons) == ([noise] * 4 + [small] * 700, {})


def test_a_million_empty_rows_in_a_kilobyte_are_a_bomb(tmp_path):
    pq.write_table(pa.table({"image": pa.nulls(10**6, pa.binary())}), tmp_path / "set.parquet", row_group_size=10**6)
    start = time.process_time()
    assert answers(tmp_path / "set.parquet") == ([], {"set.parquet/row-group-0": "bomb"})
    assert time.process_time() - start < 2


def test_of_a_parquet_bomb_no_more_than_one_value_is_held(tmp_path):
    repeated(tmp_path / "set.parquet", 40_000_000, 6, dictionary_pagesize_limit=2**30)
    pack(tmp_path, ".tar", GOOD)
    assert peak(tmp_path / "set.parquet") < peak(tmp_path / "set.tar") + 250_000, "kilobytes"


def test_a_huge_member_is_refused_unread(tmp_path, monkeypatch):
    for module in ("tars", "zips", "parquets", "sevenzip"):
        monkeypatch.setattr(f"imaginet_build.collectors.{module}.MAX_BYTES", 3000)
    files = {"a.jpg": b"\xff\xd8" * 1000, "b.jpg": bytes(range(256)) * 16, "c.jpg": b"\xff\xd8" * 1001}
    for kind in (".tar", ".tar.gz", ".zip", ".7z", ".parquet"):
        found, reasons = answers(pack(tmp_path, kind, files))
        assert len(found) == 2
        assert list(reasons.values()) == ["too-large"]


def test_an_image_that_lies_about_its_size_comes_as_it_is_since_the_decoder_refuses_it(tmp_path):
    """`collect` measures every image from its header first: test_collect has the same bomb."""
    liar = bomb(30_000, 30_000)
    assert answers(tar(tmp_path / "set.tar", {"liar.png": liar}))[0] == [liar]


def test_an_honest_list_of_captions_is_no_bomb(tmp_path):
    """By its whole dictionary for each of its values it would come to gigabytes; it is a quarter of a megabyte."""
    said = [[f"caption {j} of image {n}, of a horse on a beach {n * 7919 + j}" for j in range(3)] for n in range(3000)]
    path = tmp_path / "set.parquet"
    numbers = [[n, n + 1] for n in range(3000)]
    pq.write_table(pa.table({"image": [JPEG] * 3000, "said": said, "numbers": numbers}), path, row_group_size=3000)
    for column in ("said", "numbers"):
        found = list(Archive(str(path), origin="real", caption=column).find(Want("archive", None, 0)))
        assert [type(item) for item in found] == [Found] * 3000
    assert found[0].prompt == "[0, 1]"


@pytest.mark.parametrize("said", [[["x" * 2**20] * 90], [[f"{'x' * 2**20}{n}" for n in range(90)]]])
@pytest.mark.parametrize(
    "written", [{}, {"use_dictionary": False, "column_encoding": {"said.list.element": "DELTA_BYTE_ARRAY"}}]
)
def test_lists_that_come_to_too_much_are_not_opened_however_they_are_written(tmp_path, said, written):
    table = pa.table({"image": [JPEG] * len(said), "said": said})
    pq.write_table(table, tmp_path / "set.parquet", compression="zstd", dictionary_pagesize_limit=2**30, **written)
    assert answers(tmp_path / "set.parquet", caption="said") == ([], {"set.parquet/row-group-0": "bomb"})


def test_an_archive_of_a_million_refusals_ends_after_some(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "MOST_REFUSED", 50)
    good = member("good.jpg", len(JPEG)).tobuf() + JPEG + bytes(-len(JPEG) % 512)
    for name, header in (("same", member("a.jpg", 0)), ("links", None)):
        headers = [header or member(f"{n}.jpg", 0, tarfile.SYMTYPE, "/etc/passwd") for n in range(5000)]
        with gzip.open(tmp_path / f"{name}.tar.gz", "wb") as file:
            file.write(good + b"".join(header.tobuf() for header in headers) + bytes(1024))
    found, reasons = answers(tmp_path)
    assert (found.count(JPEG), len(found)) == (2, 3)  # and the first of the same names, which is empty
    assert [reasons[f"{name}.tar.gz"] for name in ("same", "links")] == ["too-many-faults"] * 2
    assert len(reasons) < 110


def test_many_refusals_beside_more_images_end_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "MOST_REFUSED", 5)
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for n in range(20):
            archive.addfile(member(f"{n}.jpg", len(JPEG)), io.BytesIO(JPEG))
            archive.addfile(member(f"{n}.png", 0, tarfile.SYMTYPE, "there"))
    found, reasons = answers(tmp_path / "set.tar")
    assert (len(found), len(reasons), set(reasons.values())) == (20, 20, {"link"})


# --- impossible places -------------------------------------------------------------------------------------------------


def beside(folder: Path) -> list[bytes]:
    """A good archive that is read after all the others."""
    tar(folder / "z.tar", {"z.jpg": JPEG})
    return [JPEG]


def pax(size: str) -> bytes:
    record = f"{len(size) + 9} size={size}\n"
    header = member("pax", len(record), tarfile.XHDTYPE).tobuf()
    return header + record.encode() + bytes(-len(record) % 512)


@pytest.mark.parametrize("size", [2**80, 2**62, 2**45])
@pytest.mark.parametrize("kind", ["base-256", "pax"])
@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("count", [None, 2])
def test_a_tar_member_longer_than_any_file_ends_its_archive_alone(tmp_path, size, kind, packed, count):
    good = member("a.jpg", len(JPEG)).tobuf() + JPEG + bytes(-len(JPEG) % 512)
    huge = pax(str(size)) if kind == "pax" else b""
    data = good + huge + member("b.jpg", 5 if huge else size).tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    write(tmp_path / f"a.tar{packed}", gzip.compress(data) if packed else data)
    beside(tmp_path)
    found = list(Archive(str(tmp_path), origin="real").find(Want("archive", None, 0, count=count)))
    assert [item.data for item in found if isinstance(item, Found)] == [JPEG, JPEG]
    reasons = {item.source_key: item.reason for item in found if isinstance(item, Refusal)}
    assert reasons == {f"a.tar{packed}/b.jpg": "too-large", f"a.tar{packed}": "truncated"}


@pytest.mark.parametrize("at", [2**64 - 1, 2**63 - 1, 2**62, 2**40, 100_000])
def test_a_zip_member_behind_the_end_is_refused_alone(tmp_path, at):
    path = zipped(tmp_path / "a.zip", {"a.jpg": JPEG, "b.jpg": JPEG})
    data = path.read_bytes()
    end = data.index(b"PK\5\6")
    count, length, offset = struct.unpack_from("<HII", data, end + 10)
    second = data.index(b"PK\1\2", offset + 4)
    wide = struct.pack("<HHQ", 1, 8, at)
    entry = bytearray(data[second:end])
    struct.pack_into("<H", entry, 30, len(wide))
    struct.pack_into("<I", entry, 42, 0xFFFFFFFF)
    tail = bytearray(data[end:])
    struct.pack_into("<HII", tail, 10, count, length + len(wide), offset)
    path.write_bytes(data[:second] + entry + wide + tail)
    assert answers(tmp_path) == ([JPEG], {"a.zip/b.jpg": "damaged"})


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_reader_stumbles_over_ends_its_archive_alone(tmp_path, kind, monkeypatch):
    pack(tmp_path, kind, GOOD).rename(tmp_path / f"a{kind}")
    pack(tmp_path, ".tar" if kind == ".zip" else ".zip", {"good/z.jpg": JPEG})
    reader = getattr(archive, {".zip": "Zip", ".7z": "SevenZip", ".parquet": "Parquet"}.get(kind, "Tar"))
    whole = reader.members

    def stumbling(self, wanted):
        yield next(whole(self, wanted))
        raise KeyError("what no\nlibrary documents")

    monkeypatch.setattr(reader, "members", stumbling)
    found, reasons = answers(tmp_path)
    assert found == [JPEG, JPEG]
    assert reasons == {f"a{kind}": "damaged"}


# --- cells -------------------------------------------------------------------------------------------------------------


def hostile_cells(path: Path) -> Path:
    """Rows whose caption is no UTF-8, and whose date no calendar has, between honest ones."""
    said = pa.array([b"one", b"tw\xff\xfeo", b"three", None], pa.binary()).view(pa.string())
    days = pa.array([0, 0, 2**62, 0], pa.int64()).view(pa.timestamp("us"))
    pq.write_table(pa.table({"image": [JPEG] * 4, "said": said, "day": days}), path)
    return path


@pytest.mark.parametrize("count", [None, 4])
def test_a_cell_that_is_no_text_costs_its_own_row_and_a_day_that_cannot_be_is_none(tmp_path, count):
    hostile_cells(tmp_path / "a.parquet")
    beside(tmp_path)
    for settings_ in ({"caption": "said"}, {"caption": "said", "date": "day"}):
        (tmp_path / "z.tar").unlink()
        pq.write_table(
            pa.table({"image": [JPEG], "said": ["last"], "day": pa.array([0], pa.timestamp("us"))}), tmp_path / "z.tar"
        )
        found = list(Archive(str(tmp_path / "*"), origin="real", **settings_).find(Want("archive", None, 0, count=count)))
        assert sorted(str(item.prompt) for item in found if isinstance(item, Found)) == ["None", "last", "one", "three"]
        assert [(item.source_key, item.reason) for item in found if isinstance(item, Refusal)] == [("a.parquet/1", "not-utf8")]
    days = {item.source_key: item.date for item in found if isinstance(item, Found)}
    assert days["a.parquet/2"] is None
    assert str(days["a.parquet/0"]).startswith("1970-01-01")


CONTRADICTING = Path(__file__).parents[1] / "data" / "contradicting.parquet"
"""A footer whose statistics contradict its schema in one byte: pyarrow 26 ends the process when it is asked for that column."""

READ_ALL = """
import sys
from imaginet_build.collectors.archive import Archive
from imaginet_build.collectors.urllist import UrlList
from imaginet_build.records import Refusal, Want
(found,) = Archive(sys.argv[1], origin="real", caption="tags").find(Want("archive", None, 0))
listed = list(UrlList(sys.argv[1], {}, "real").rows(Want("urls", None, 0)))
print(found.reason, len(listed), sum(isinstance(row, Refusal) for row in listed))
"""


def test_a_footer_that_contradicts_itself_ends_its_file_and_not_the_process():
    done = subprocess.run([sys.executable, "-c", READ_ALL, CONTRADICTING], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "damaged"), done.stderr
    assert done.stdout.split()[1] != "0"


def test_a_footer_is_read_as_arrow_reads_it(tmp_path):
    table = pa.table({"image": [{"bytes": JPEG, "path": "a.jpg"}] * 9, "said": [["a", "b"]] * 9, "n": list(range(9))})
    for written in ({}, {"use_dictionary": False, "version": "1.0"}, {"compression": "zstd", "data_page_version": "2.0"}):
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=4, **written)
        known = pq.ParquetFile(tmp_path / "a.parquet").metadata
        with (tmp_path / "a.parquet").open("rb") as file:
            groups = pages.row_groups(file)
        assert [group.rows for group in groups] == [4, 4, 1]
        for number, group in enumerate(groups):
            for place, column in enumerate(group.columns):
                theirs = known.row_group(number).column(place)
                begin = theirs.dictionary_page_offset if theirs.has_dictionary_page else theirs.data_page_offset
                sizes = (theirs.path_in_schema, theirs.total_compressed_size, theirs.total_uncompressed_size, begin)
                assert (column.path, column.packed, column.full, column.begin) == sizes


def test_a_key_that_is_no_text_is_refused_by_its_row(tmp_path):
    hostile_cells(tmp_path / "a.parquet")
    assert answers(tmp_path / "a.parquet", key="said") == (
        [JPEG, JPEG], {"a.parquet/1": "not-utf8", "a.parquet/3": "no-key"},
    )  # fmt: skip


def test_a_column_of_categories_says_how_to_give_it(tmp_path):
    table = pa.table({"image": pa.array([JPEG, JPEG]).dictionary_encode()})
    pq.write_table(table, tmp_path / "a.parquet")
    (refusal,) = Archive(str(tmp_path), origin="real").find(Want("archive", None, 0))
    assert refusal.reason == "missing-column"
    assert "holds dictionary<" in refusal.detail
    assert refusal.detail.endswith(": cast it to binary")


# --- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"])
def test_of_a_tar_that_ends_half_way_the_first_half_stays(tmp_path, kind):
    files = {f"{n}.jpg": jpeg(f"long {n}", 400, 300) for n in range(20)}
    path = pack(tmp_path, kind, files)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found, reasons = answers(path)
    assert found == list(files.values())[: len(found)]
    assert 0 < len(found) < 20 or kind in (".tar.bz2", ".tar.xz")  # these hold back a whole block, of nearly a megabyte or more
    assert reasons == {f"set{kind}": "truncated"}


@pytest.mark.parametrize("kind", [".zip", ".7z", ".parquet"])
def test_an_archive_whose_list_of_members_is_cut_off_is_one_refusal(tmp_path, kind):
    path = pack(tmp_path, kind, GOOD)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert answers(path) == ([], {f"set{kind}": "truncated"})


def test_a_tar_without_its_end_mark_is_said_to_be_cut(tmp_path):
    path = pack(tmp_path, ".tar", GOOD)
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    path.write_bytes(path.read_bytes()[: last.offset_data + -(-last.size // 512) * 512])
    assert answers(path) == (list(GOOD.values()), {"set.tar": "truncated"})


def test_a_damaged_header_ends_a_tar_aloud(tmp_path):
    """`tarfile` itself would stop there without a word."""
    path = pack(tmp_path, ".tar", GOOD)
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as archive:
        at = archive.getmembers()[3].offset
    data[at : at + 512] = b"\x5a" * 512
    path.write_bytes(data)
    assert answers(path) == (list(GOOD.values())[:3], {"set.tar": "damaged"})


def test_other_archives_go_on(tmp_path):
    for n in range(3):
        tar(tmp_path / f"{n}.tar", {f"{n}.jpg": JPEG})
    write(tmp_path / "1.tar", b"")
    assert answers(tmp_path) == ([JPEG, JPEG], {"1.tar": "truncated"})


def test_a_hole_in_a_stored_zip_member_is_that_members_alone(tmp_path):
    path = zipped(tmp_path / "set.zip", GOOD, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    at = data.index(GOOD["good/2.jpg"])
    data[at + 100 : at + 200] = bytes(100)
    path.write_bytes(data)
    found, reasons = answers(path)
    assert len(found) == 5
    assert reasons == {"set.zip/good/2.jpg": "checksum"}


def test_a_zip_member_of_another_size_than_it_says_is_refused(tmp_path):
    for change, reason in ((-10, "wrong-size"), (10, "wrong-size")):
        path = zipped(tmp_path / "set.zip", {"a.jpg": JPEG, "b.jpg": JPEG})
        data = bytearray(path.read_bytes())
        at = data.index(b"PK\1\2") + 24
        data[at : at + 4] = struct.pack("<I", len(JPEG) + change)
        path.write_bytes(data)
        assert answers(path) == ([JPEG], {"set.zip/a.jpg": reason})


def test_what_is_encrypted_is_refused(tmp_path):
    path = zipped(tmp_path / "set.zip", {"a.jpg": JPEG, "b.jpg": JPEG})
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2") + 8
    data[at] |= 1
    path.write_bytes(data)
    assert answers(path) == ([JPEG], {"set.zip/a.jpg": "encrypted"})
    import py7zr

    with py7zr.SevenZipFile(tmp_path / "set.7z", "w", password="secret") as archive:
        archive.writestr(JPEG, "a.jpg")
    assert answers(tmp_path / "set.7z") == ([], {"set.7z": "encrypted"})


def test_a_header_that_claims_gigabytes_is_not_read_into_memory(tmp_path):
    huge = member("././@PaxHeader", 2**33, tarfile.XHDTYPE).tobuf(tarfile.GNU_FORMAT)
    long = member("././@LongLink", 2**32, tarfile.GNUTYPE_LONGNAME).tobuf(tarfile.GNU_FORMAT)
    for header in (huge, long):
        write(tmp_path / "set.tar", pack(tmp_path, ".tar", GOOD).read_bytes()[:-10240] + header + bytes(4096))
        found, reasons = answers(tmp_path / "set.tar")
        assert len(found) >= 5
        assert reasons == {"set.tar": "damaged"}


def test_a_negative_size_does_not_lead_backwards_for_ever(tmp_path):
    header = bytearray(member("evil.jpg", 0).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + struct.pack(">H", (1 << 16) - 1024)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    write(tmp_path / "set.tar", pack(tmp_path, ".tar", GOOD).read_bytes()[:-10240] + bytes(header) + bytes(1024))
    start = time.process_time()
    _, reasons = answers(tmp_path / "set.tar")
    assert reasons == {"set.tar": "damaged"}
    assert time.process_time() - start < 2


def test_a_parquet_file_without_its_columns_is_one_refusal_that_lists_those_it_has(tmp_path):
    parquet(tmp_path / "0.parquet", {"a.jpg": JPEG})
    pq.write_table(pa.table({"imge": [JPEG], "name": ["x"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"image": [[1, 2]]}), tmp_path / "2.parquet")
    found, reasons = answers(tmp_path)
    assert found == [JPEG]
    assert reasons == {"1.parquet": "missing-column", "2.parquet": "missing-column"}
    (refusal,) = Archive(str(tmp_path / "1.parquet"), origin="real").find(Want("archive", None, 0))
    assert "no column 'image'; did you mean 'imge'?. It has imge, name" in refusal.detail


def test_a_parquet_row_without_bytes_is_that_rows_alone(tmp_path):
    pq.write_table(pa.table({"image": pa.array([JPEG, None, JPEG], pa.binary())}), tmp_path / "set.parquet")
    assert answers(tmp_path / "set.parquet") == ([JPEG, JPEG], {"set.parquet/1": "no-bytes"})


def test_a_damaged_page_is_noticed_and_ends_its_file(tmp_path):
    path = parquet(tmp_path / "set.parquet", GOOD)
    pq.write_table(
        pq.read_table(path),
        path,
        row_group_size=2,
        write_page_checksum=True,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
    )
    data = bytearray(path.read_bytes())
    at = data.index(GOOD["good/4.jpg"])
    data[at + 50 : at + 100] = bytes(50)
    path.write_bytes(data)
    found, reasons = answers(path)
    assert found == list(GOOD.values())[:4]
    assert reasons == {"set.parquet": "damaged"}


def test_of_a_7z_with_a_damaged_member_the_first_stay(tmp_path):
    import py7zr

    with py7zr.SevenZipFile(tmp_path / "set.7z", "w", filters=[{"id": py7zr.FILTER_COPY}]) as archive:
        for name, data in GOOD.items():
            archive.writestr(data, name)
    data = bytearray((tmp_path / "set.7z").read_bytes())
    at = data.index(GOOD["good/3.jpg"])
    data[at + 50 : at + 60] = bytes(10)
    (tmp_path / "set.7z").write_bytes(data)
    found, reasons = answers(tmp_path / "set.7z")
    assert found == list(GOOD.values())[:3]
    assert set(reasons.values()) == {"checksum"}


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = pack(tmp_path, ".7z", GOOD)
    monkeypatch.setitem(sys.modules, "py7zr", None)
    with pytest.raises(BuildError, match=r"a 7z archive needs py7zr: pip install 'imaginet-build\[sevenzip\]'"):
        answers(path)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return {kind: pack(tmp_path_factory.mktemp("fuzz"), kind, GOOD).read_bytes() for kind in KINDS}


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 2**31), flips=st.integers(1, 12), keep=st.floats(0.2, 1.0))
def test_whatever_is_done_to_the_bytes_the_answer_is_images_or_refusals(tmp_path, packed, kind, seed, flips, keep):
    import random

    chance = random.Random(seed)
    data = bytearray(packed[kind][: int(len(packed[kind]) * keep)] if keep < 0.95 else packed[kind])
    for _ in range(flips):
        data[chance.randrange(len(data))] = chance.randrange(256)
    write(tmp_path / "set", bytes(data))
    start = time.process_time()
    found = list(Archive(str(tmp_path / "set"), origin="real").find(Want("archive", None, 0)))
    assert time.process_time() - start < 10
    assert len({item.source_key for item in found}) == len(found)


# --- memory ------------------------------------------------------------------------------------------------------------

PEAK = """
import sys
from imaginet_build.collectors.archive import Archive
from imaginet_build.records import Want
count = int(sys.argv[2]) or None
number = sum(1 for _ in zip(Archive(sys.argv[1], origin="real").find(Want("a", None, 0, count=count)), range(count or 10**9)))
print(number, next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak(path: Path, count: int = 0) -> int:
    """Kilobytes at the most while the whole archive is read in a process of its own."""
    command = [sys.executable, "-c", PEAK, str(path), str(count)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(said.split()[1])


@pytest.mark.prove
@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow_with_the_archive(tmp_path, kind):
    noise = jpeg("noise", 300, 300)
    peaks = []
    for number in (100, 400, 1600):
        (tmp_path / str(number)).mkdir()
        files = {f"{n:06d}.jpg": noise + n.to_bytes(4, "big") + random_bytes(n) for n in range(number)}
        peaks.append(peak(pack(tmp_path / str(number), kind, files)))
    assert peaks[-1] < peaks[0] + 25_000, peaks  # kilobytes; the largest archive has 50,000 more than the smallest


def random_bytes(n: int) -> bytes:
    import random

    return random.Random(n).randbytes(20_000)


def test_a_million_names_are_told_apart_in_few_bytes():
    seen = Seen()
    assert all(seen.add(n * 7919) for n in range(200_000))
    assert not any(seen.add(n * 7919) for n in range(0, 200_000, 997))
    assert seen.old.nbytes <= 8 * 200_000
    assert len(seen.new) < 65536


def test_the_limits_are_those_of_folders():
    from imaginet_build.collectors import folder

    assert members.MAX_BYTES == folder.MAX_BYTES
