"""Probes: what a file says of itself, as codes that know no label."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from imaginet_build.auditing.facts import FACTS
from imaginet_build.auditing.probes import (
    BYTES_PER_PIXEL,
    MAX_CODES,
    Probe,
    extension_case,
    matrix,
    probes_of,
    remedy,
    words_of,
)


def row(**given: object) -> dict[str, object]:
    usual: dict[str, object] = {
        "path": "a.jpg",
        "origin": "real",
        "content_type": "photos",
        "group": "g",
        "extension": "jpg",
        "codec": "jpeg",
        "quality": 90,
        "qtables": "q",
        "subsampling": "4:2:0",
        "progressive": False,
        "width": 640,
        "height": 480,
        "mode": "RGB",
        "metadata": "",
        "nbytes": 9000,
    }
    return usual | given


def probes(*rows: dict[str, object]) -> dict[str, Probe]:
    return {p.name: p for p in probes_of(pa.Table.from_pylist(list(rows), schema=FACTS))}


def words(probe: Probe) -> list[str]:
    return [probe.names[v] for v in probe.values]


def test_every_fact_of_a_file_is_a_probe() -> None:
    assert list(probes(row())) == [
        *("extension", "mime", "codec", "mime_mismatch", "quality", "qtables", "subsampling", "progressive", "mode"),
        *("width", "height", "aspect", "megapixels"),
        *("exif", "xmp", "icc", "iptc", "c2pa", "text", "comment"),
        *("content_type", BYTES_PER_PIXEL),
    ]


def test_a_list_that_names_files_knows_extensions_and_categories() -> None:
    bare = dict.fromkeys(FACTS.names) | {n: row()[n] for n in ("path", "origin", "content_type", "group", "extension")}
    assert list(probes(bare)) == ["extension", "mime", "content_type"]


def test_bytes_per_pixel_stand_beside_the_gate() -> None:
    found = probes(row())
    assert [name for name, p in found.items() if not p.gate] == [BYTES_PER_PIXEL]


def test_metadata_is_a_probe_per_container() -> None:
    found = probes(row(metadata="exif,icc"), row(metadata="text"), row())
    assert words(found["exif"]) == ["yes", "no", "no"]
    assert words(found["icc"]) == ["yes", "no", "no"]
    assert words(found["text"]) == ["no", "yes", "no"]
    assert words(found["c2pa"]) == ["no", "no", "no"]


@pytest.mark.parametrize(
    ("extension", "codec", "says"),
    [("jpg", "jpeg", "no"), ("jpeg", "jpeg", "no"), ("png", "jpeg", "yes"), ("tif", "tiff", "no"), ("", "webp", "no")],
)
def test_a_name_that_promises_another_format(extension: str, codec: str, says: str) -> None:
    assert words(probes(row(extension=extension, codec=codec))["mime_mismatch"]) == [says]


def test_what_is_not_there_is_a_value_of_its_own() -> None:
    found = probes(row(quality=None, qtables=None, codec="png"), row())
    assert words(found["quality"]) == ["none", "90"]
    assert words(found["qtables"])[0] == "none"
    assert found["quality"].codes[0] == 0


def test_megapixels_come_in_half_octaves() -> None:
    found = probes(row(width=1000, height=1000), row(width=1010, height=1000), row(width=1000, height=500))
    assert words(found["megapixels"]) == ["1", "1", "0.5"]


def test_codes_are_few_and_keep_the_order_of_numbers() -> None:
    rows = [row(width=w, height=100 + w % 7, qtables=f"q{w}") for w in range(1, 400)]
    found = probes(*rows)
    assert all(p.codes.min() >= 0 and p.codes.max() <= MAX_CODES for p in found.values())
    assert (np.diff(found["width"].codes) >= 0).all()
    assert len(found["width"].names) == 399  # the exact values stay for the search for markers
    assert matrix(list(found.values())).dtype == np.uint8


def test_codes_do_not_depend_on_the_order_of_rows() -> None:
    rows = [row(extension=e, width=w) for e, w in [("png", 5), ("jpg", 9), ("png", 7), ("gif", 5)]]
    forward, backward = probes(*rows), probes(*rows[::-1])
    for name, probe in forward.items():
        assert np.array_equal(probe.codes, backward[name].codes[::-1])


@pytest.mark.parametrize("view", ["equalized", "native", None])
def test_every_remedy_ends_in_a_command(view: str | None) -> None:
    for name in [*probes(row()), "all", "extension+content_type"]:
        assert remedy(name, view, "build-imaginet balance").endswith(": build-imaginet balance")


def test_every_key_of_the_metadata_is_a_probe_of_its_values() -> None:
    said = [f"exif Date={i}\nexif Make={'ab'[i % 2]}\nexif Maker={'xy'[i % 2]}\nheader v=1" for i in range(20)]
    said += [None] * 10 + ["header rare=1\nheader v=1"] * 4
    table = pa.table({"words": pa.array(said, pa.string()), "path": [f"{i}.jpg" for i in range(34)]})
    found = {probe.name: [probe.names[v] for v in probe.values.tolist()] for probe in words_of(table)}
    assert found == {
        "exif Date": ["(another)"] * 20 + ["(absent)"] * 14,
        "exif Make": ["a", "b"] * 10 + ["(absent)"] * 14,
        "header v": ["1"] * 20 + ["(absent)"] * 10 + ["1"] * 4,
    }
    assert words_of(table.slice(20, 10)) == []


def test_the_case_of_an_extension_is_a_probe() -> None:
    probe = extension_case(pa.table({"path": ["a/B.C/d.jpg", "a.JPG", "b.Jpeg", "noname", "X.y/Z"]}))
    assert [probe.names[v] for v in probe.values.tolist()] == ["lower", "upper", "upper", "lower", "lower"]
