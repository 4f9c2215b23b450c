"""`rebuild` from where images really come: a web server and a data set of the Hub, whole, changed, dead and broken off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hub_server
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_server import FaultyServer
from hub_client import turn_to
from licensed import images_of, rows, session
from pictures import jpeg

from imaginet_build import rebuild
from imaginet_build.releases import release, releasecheck
from imaginet_build.running import rebuilding, stages
from imaginet_build.running.workspace import Session

pytestmark = pytest.mark.usefixtures("no_processes")

COUNT = 8


def published(it: Session, out: Path) -> tuple[Path, Path]:
    """The whole release, and the one that left without the pixels that may not travel."""
    stages.collect(it)
    stages.balance(it)
    whole, _ = stages.publish(it)
    sent, _ = stages.publish(it, out)
    assert (whole.rows, whole.withheld, sent.withheld) == (2 * COUNT, 0, COUNT)
    return whole.path, sent.path


def work(root: Path, source: dict[str, Any], robustness: str = "social") -> Session:
    """Photographs of `source`, as many drawings of a folder that anybody may pass on, and a robustness set."""
    (root / "drawn" / "gan-a").mkdir(parents=True)
    for number in range(COUNT):
        (root / "drawn" / "gan-a" / f"{number}.jpg").write_bytes(jpeg(f"drawn {number}", 96, 96))
    drawn = {"root": str(root / "drawn"), "origin": "synthetic"}
    entries = [source | {"category": "photos"}, {"source": "folder", "category": "photos", "licence": "cc0", "options": drawn}]
    return session(root / "work", *entries, publish={"robustness": robustness, "sweep_images": 2, "rows_per_file": 8})


def back(folder: Path, out: Path, *given: str) -> rebuild.Rebuilt:
    return rebuilding.rebuild(folder, out, verify=True, given=given, trust=False)


def same(whole: Path, out: Path, done: rebuild.Rebuilt) -> None:
    """All data byte for byte, the robustness set too, and nothing the lint or the audit would say."""
    assert (done.missing, done.faults, done.identical) == ((), (), True)
    robust = sum(pq.read_metadata(path).num_rows for path in release.shards(whole, "robustness")["test"])
    assert robust
    assert done.images == 2 * done.rows + robust
    assert images_of(out, "robustness") == images_of(whole, "robustness")
    assert None not in images_of(out, "robustness").values()
    assert releasecheck.check(out)["faults"] == []


def test_addresses_are_fetched_again_and_what_is_dead_changed_or_broken_off_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with FaultyServer(images={n: jpeg(f"served {n}", 96, 96) for n in range(COUNT)}) as server:
        (tmp_path / "manifests" / "sources").mkdir(parents=True)
        (tmp_path / "manifests" / "sources" / "album.toml").write_text(
            'adapter = "imaginet_build.collectors.urls:Urls"\nlicence = "LicenseRef-agreement"\nredistribute = false\n'
            f'revision = "listed"\norigin = "real"\nattempts = 1\nallow_loopback = ["{server.place}"]\n'
        )
        (tmp_path / "list.txt").write_text("".join(f"{server.url(f'/image/{n}.jpg')}\n" for n in range(COUNT)))
        it = work(tmp_path, {"source": "album", "options": {"root": str(tmp_path / "list.txt")}}, "all")
        whole, sent = published(it, tmp_path / "sent")
        (tmp_path / "list.txt").unlink()  # nothing but the release is needed
        assert any(image is None for image in images_of(sent, "robustness").values())

        good = dict(server.images)
        server.images[3] = jpeg("another picture", 96, 96)
        server.images[4] = good[4][:-40]
        server.images[5] = b"gone\n" * 40
        some = back(sent, tmp_path / "back")
        assert {one["source_key"].rpartition("/")[2] for one in some.missing} == {"3.jpg", "4.jpg", "5.jpg"}
        assert all("is no longer what was collected: its SHA-256 is" in one["reason"] for one in some.missing), some.missing
        assert (some.restored, (tmp_path / "back").exists()) == (COUNT - 3, False)
        server.gone = {3, 4}
        server.images = good
        dead = back(sent, tmp_path / "back")
        assert {one["source_key"].rpartition("/")[2]: one["reason"].partition(":")[0] for one in dead.missing} == {
            "3.jpg": "http-404", "4.jpg": "http-404"
        }  # fmt: skip
        server.gone = set()
        before = len(server.asked)
        same(whole, tmp_path / "back", back(sent, tmp_path / "back"))
        assert {path for path in server.asked[before:] if path.endswith(".jpg")} == {"/image/3.jpg", "/image/4.jpg"}
    assert back(sent, tmp_path / "later").restored == 0, "nobody answers any more"


def test_a_hint_never_opens_this_machine_to_whoever_made_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's own `allow_loopback` does not travel: without a card that says it, nothing here is asked."""
    monkeypatch.chdir(tmp_path)
    with FaultyServer(images={n: jpeg(f"served {n}", 96, 96) for n in range(COUNT)}) as server:
        (tmp_path / "list.txt").write_text("".join(f"{server.url(f'/image/{n}.jpg')}\n" for n in range(COUNT)))
        options = {"root": str(tmp_path / "list.txt"), "origin": "real", "allow_loopback": [server.place], "attempts": 1}
        it = work(tmp_path, {"source": "urls", "licence": "CC-BY-ND-4.0", "options": options})
        _, sent = published(it, tmp_path / "sent")
        before = len(server.asked)
        done = back(sent, tmp_path / "back")
        assert len(done.missing) == COUNT
        assert len(server.asked) == before


def test_a_data_set_of_the_hub_is_read_again_at_its_commit_and_what_changed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets, huggingface_hub = pytest.importorskip("datasets"), pytest.importorskip("huggingface_hub")
    features = datasets.Features({"image": datasets.Image(decode=False)}).arrow_schema
    monkeypatch.chdir(tmp_path)

    def files(changed: frozenset[int] = frozenset()) -> dict[str, bytes]:
        made = {}
        for shard in range(2):
            numbers = range(shard * COUNT // 2, (shard + 1) * COUNT // 2)
            told = [{"bytes": jpeg(f"{'other' if n in changed else 'hub'} {n}", 96, 96), "path": f"{n}.jpg"} for n in numbers]
            sink = pa.BufferOutputStream()
            pq.write_table(pa.table({"image": told}, schema=features), sink)
            made[f"data/train-{shard:05d}-of-00002.parquet"] = sink.getvalue().to_pybytes()
        return made

    with hub_server.running() as hub:
        turn_to(hub, tmp_path / "home", monkeypatch)

        def serve(changed: frozenset[int] = frozenset()) -> None:
            hub.repos["lab/set"] = hub_server.Repo("lab/set", False)
            hub.repos["lab/set"].add("rows", files(changed), oid=hub_server.COMMIT)
            huggingface_hub.HfFileSystem.clear_instance_cache()  # the client believes that a commit never changes

        serve()
        options = {"dataset": f"lab/set@{hub_server.COMMIT}", "origin": "real"}
        it = work(tmp_path, {"source": "hub", "licence": "CC-BY-ND-4.0", "options": options})
        whole, sent = published(it, tmp_path / "sent")
        hint = next(json.loads(row["fetch"]) for row in rows(sent) if row["fetch"])
        assert (hint["card"], hint["options"]["dataset"]) == ("hub", f"lab/set@{hub_server.COMMIT}")

        del hub.repos["lab/set"]
        gone = back(sent, tmp_path / "back")
        assert len(gone.missing) == COUNT
        assert all("hub" in one["reason"] or "lab/set" in one["reason"] for one in gone.missing)
        serve(frozenset({1, 7}))
        changed = back(sent, tmp_path / "back")
        assert (changed.restored, len(changed.missing)) == (COUNT - 2, 2)
        assert all("is no longer what was collected" in one["reason"] for one in changed.missing)
        serve()
        same(whole, tmp_path / "back", back(sent, tmp_path / "back"))
