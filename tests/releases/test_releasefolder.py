"""The folder of a release takes its place as a whole, at whatever moment the run is killed."""

from __future__ import annotations

from pathlib import Path

import published
import pytest

from imaginet_build.releases import release, releasecheck, releasefolder


class Killed(Exception):
    """The process is gone."""


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_killed_between_the_renames_nothing_is_lost_and_nothing_is_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    older = published.release(tmp_path)
    partial = tmp_path / "release.partial"
    with monkeypatch.context() as patch:
        true, done = Path.rename, []

        def rename(self: Path, target: Path) -> Path:
            if self in (older.path, partial):
                done.append(target)
                if len(done) == renames + 1:
                    raise Killed
            moved = true(self, target)
            if len(done) == renames == 2:
                raise Killed
            return moved

        patch.setattr(Path, "rename", rename)
        with pytest.raises(Killed):
            published.release(tmp_path, rows_per_file=3)
    shards = {path: path.stat().st_mtime_ns for path in partial.rglob("data/native/*.parquet")}
    assert bool(shards) == (renames < 2)
    releasefolder.recover(older.path)
    assert release.faults(older.path) == []
    assert (release.read_manifest(older.path)["digest"] == older.digest) == (renames < 2)
    made = published.release(tmp_path, rows_per_file=3)
    assert {made.path / path.relative_to(partial): at for path, at in shards.items()}.items() <= {
        path: path.stat().st_mtime_ns for path in made.path.rglob("*.parquet")
    }.items()
    assert releasecheck.check(made.path)["faults"] == []
    assert published.release(tmp_path, rows_per_file=3).unchanged
    assert sorted(path.name for path in tmp_path.iterdir() if "partial" in path.name) == []
    assert not (made.path / ".inputs").exists()


def test_a_release_that_somebody_moved_away_stays_there(tmp_path: Path) -> None:
    first = published.release(tmp_path)
    for name in ("release.old", "release.replaced"):
        first.path.rename(tmp_path / name)
        releasefolder.recover(first.path)
        assert not first.path.exists()
        (tmp_path / name).rename(first.path)
