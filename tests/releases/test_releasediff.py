"""Two releases side by side: what came, went, changed and moved, and how much of the one is in the other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from growth import LAW, SETTINGS, add, begun, grown

from imaginet_build.balance import balance
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.publish import Told, publish
from imaginet_build.releases import release, releasediff
from imaginet_build.store import Store


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Path]:
    root = tmp_path_factory.mktemp("diff")
    store, _ = begun(root, rows=12)
    return store, root


def test_a_release_is_like_itself(folders: tuple[Store, Path]) -> None:
    found = releasediff.compare(folders[1] / "v1", folders[1] / "v1")
    assert found.rows == {"added": 0, "removed": 0, "changed": 0, "moved": 0, "same": 24}
    assert (found.cells, found.columns, found.names, found.nbytes["part"]) == ((), {}, {}, 1.0)
    assert found.to_json()["same"] is True
    assert releasediff.text(found).endswith("hold the same data")


def test_a_damaged_file_is_named(folders: tuple[Store, Path], tmp_path: Path) -> None:
    for number, cut in enumerate((1000, -4)):
        bad = shutil.copytree(folders[1] / "v1", tmp_path / str(number))
        shard = next((bad / "data" / "native").glob("test-*"))
        shard.write_bytes(shard.read_bytes()[:cut])
        with pytest.raises(BuildError, match=rf"{shard} cannot be read .*take an intact copy"):
            releasediff.compare(folders[1] / "v1", bad)


def test_a_release_made_anew_moves_rows_and_names_and_shares_no_file(folders: tuple[Store, Path], tmp_path: Path) -> None:
    """Without --from another seed is another release, and a name that sorts first takes another's number."""
    _, root = folders
    store = Store(tmp_path / "w")
    add(
        store,
        "a",
        ("album", range(14), True),
        ("a-first-gan", range(2), False),
        ("gan-a", range(12), False),
        licence="CC-BY-4.0",
    )
    balance(store, SETTINGS, LAW, 5)
    gate: dict[str, Any] = {
        "verdict": "refused",
        "value": 0.8123,
        "limit": 0.55,
        "permutation95": 0.6,
        "groups": 28,
        "reason": "size",
    }
    publish(store, tmp_path / "other", told=Told(audit={"gate": gate}))
    found = releasediff.compare(root / "v1", tmp_path / "other")
    assert (found.rows["added"], found.rows["removed"]) == (4, 0)
    assert found.rows["moved"] == sum(found.splits.values()) > 0
    assert found.columns["licence"] == found.rows["changed"] == 24
    assert found.names["generator"] == {"added": ["a-first-gan"], "removed": [], "renumbered": ["gan-a"]}
    cells = {cell.generator_or_source: cell for cell in found.cells}
    assert (cells["album"].added, cells["a-first-gan"].added, cells["gan-a"].changed) == (2, 2, 12)
    assert sum(cell.moved for cell in found.cells) == found.rows["moved"]
    assert found.nbytes == {"shared": 0, "part": 0.0}
    text = releasediff.text(found)
    assert "gate: not audited -> refused at 0.812" in text
    assert "generator: renumbered gan-a" in text
    back = releasediff.compare(tmp_path / "other", root / "v1")
    assert (back.rows["removed"], back.names["generator"]["removed"]) == (4, ["a-first-gan"])


def test_what_grew_is_whole_in_what_it_grew_to(folders: tuple[Store, Path]) -> None:
    store, root = folders
    add(store, "b", ("album", range(20, 23), True), ("gan-b", range(3), False))
    grown(store, root / "v1", root / "v2")
    found = releasediff.compare(root / "v1", root / "v2")
    manifest = release.read_manifest(root / "v1")
    assert found.before.nbytes == sum(f["nbytes"] for p, f in manifest["files"].items() if p.startswith("data/"))
    assert found.nbytes["part"] == 1.0
    assert (found.files["rewritten"], found.files["gone"]) == (0, 0)
    json.dumps(found.to_json())


def test_views_that_only_one_has_are_said(folders: tuple[Store, Path], tmp_path: Path) -> None:
    publish(folders[0], tmp_path / "native", views=["native"])
    publish(folders[0], tmp_path / "equalized", views=["equalized"])
    found = releasediff.compare(folders[1] / "v1", tmp_path / "native")
    assert found.views == {"before": ["equalized", "native"], "after": ["native"]}
    with pytest.raises(UsageError, match="no common one"):
        releasediff.compare(tmp_path / "equalized", tmp_path / "native")
    with pytest.raises(UsageError, match="is not a release"):
        releasediff.compare(tmp_path, tmp_path / "native")
