"""`collect` with a list of URLs: quotas are met though links are dead; a killed run goes on without a gap or a duplicate."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty_server import FaultyServer, image
from inline import Inline, Interrupted

from imaginet_build import engine
from imaginet_build.collect import collect
from imaginet_build.engine import Pool
from imaginet_build.recipe import Collect
from imaginet_build.store import Store


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> Inline:
    run = Inline()
    monkeypatch.setattr(engine, "run", run)
    return run


@pytest.fixture(scope="module")
def server():
    with FaultyServer() as running:
        yield running


def listed(folder: Path, server: FaultyServer, count: int) -> Path:
    """Two of five links are dead."""
    path = folder / "list.txt"
    paths = [f"/status/404/{n}" if n % 5 in (1, 3) else f"/image/{n}.jpg" for n in range(count)]
    path.write_text("\n".join(server.url(one) for one in paths))
    return path


def entry(root: Path, server: FaultyServer, count: int | None, **how) -> Collect:
    options = {"root": str(root), "origin": "real", "allow_loopback": [server.place]} | how
    return Collect(source="urls", category="photos", count=count, options=options)


def images(store: Store) -> dict[str, bytes]:
    rows = store.facts(["id", "source_key"]).to_pylist()
    names = {row["id"]: row["source_key"] for row in rows}
    assert len(names) == len(rows)
    return {names[name]: data for name, data in store.images(names)}


def test_a_quota_is_met_though_two_of_five_links_are_dead(server, tmp_path, inline):
    root = listed(tmp_path, server, 100)
    done = collect(Store(tmp_path / "w"), [entry(root, server, 40)], 0, Pool(workers=1))
    assert (done.new, done.rejected) == (40, {"http-404": 26})
    alive = [n for n in range(100) if n % 5 not in (1, 3)][:40]
    assert images(Store(tmp_path / "w")) == {server.url(f"/image/{n}.jpg"): image(n) for n in alive}


def test_ids_do_not_depend_on_where_the_list_lies_or_on_how_it_is_fetched(server, tmp_path, inline):
    found = []
    for name, how in (("a", {}), ("b", {"concurrency": 3, "timeout": 30.0, "contact": "me@lab.example", "memory": 100_000})):
        (tmp_path / name).mkdir()
        store = Store(tmp_path / f"work-{name}")
        collect(store, [entry(listed(tmp_path / name, server, 20), server, None, **how)], 0, Pool(workers=1))
        found.append((store.ids(), images(store)))
    assert found[0] == found[1]


def test_an_interrupted_run_goes_on_to_the_same_images(server, tmp_path, inline):
    root = listed(tmp_path, server, 400)
    whole = Store(tmp_path / "whole")
    collect(whole, [entry(root, server, 200)], 0, Pool(workers=1))
    store = Store(tmp_path / "cut")
    for patience in (1, 2):
        inline.patience = patience
        with pytest.raises(Interrupted):
            collect(store, [entry(root, server, 200)], 0, Pool(workers=1))
    inline.patience = None
    collect(store, [entry(root, server, 200)], 0, Pool(workers=1))
    assert images(store) == images(whole)
    assert store.ids() == whole.ids()


@pytest.mark.prove
def test_killed_again_and_again_nothing_is_lost_and_nothing_twice(tmp_path):
    with FaultyServer() as server:
        server.slow = 0.05
        root = listed(tmp_path, server, 1500)
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(
            f'name = "killed"\n[[collect]]\nsource = "urls"\ncategory = "photos"\ncount = 800\n'
            f'options = {{ root = "{root}", origin = "real", allow_loopback = ["{server.place}"] }}\n[engine]\nworkers = 1\n'
        )
        command = [sys.executable, "-m", "imaginet_build", "collect", "--recipe", str(recipe), "--work", str(tmp_path / "w")]
        partly = []
        for seconds in (5.0, 6.0, 7.0):
            run = subprocess.Popen(
                command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(seconds)
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            partly.append(len(Store(tmp_path / "w").ids("collect")) if (tmp_path / "w").exists() else 0)
        subprocess.run(command, cwd=tmp_path, check=False, capture_output=True)
        alive = [n for n in range(1500) if n % 5 not in (1, 3)][:800]
        assert images(Store(tmp_path / "w")) == {server.url(f"/image/{n}.jpg"): image(n) for n in alive}
        assert partly[0] < 1334, "killed too late to show anything"
