"""`generate`: every order becomes exactly one image or one reject, whatever its generator does and whenever it is stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from deadly import DeadAfterFinishing, DeadByBytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inline import Inline, Interrupted
from pictures import encoded, png, write

from imaginet_build import engine, images
from imaginet_build import generate as module
from imaginet_build.collect import collect
from imaginet_build.engine import Pool
from imaginet_build.errors import BuildError, UsageError
from imaginet_build.generate import generate
from imaginet_build.recipe import Collect, Generate
from imaginet_build.store import Store, StoreError

ONE = Pool(workers=1)
SUBJECTS = (
    "a red barn under heavy snow", "two cats asleep on warm bricks", "the old harbour seen at dawn",
    "market stalls with lemons", "an empty tram in the rain", "rowing boats near a stone pier", "sheep on a windy green hill",
    "a bakery window by night", "tall ships beyond the lighthouse", "children flying a yellow kite",
    "steam over a mountain lake", "books stacked on the stairs",
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with cards of its own, which overlay the shipped ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, kind in (("painter", "Painter"), ("blind", "Blind"), ("neighbourly", "Neighbourly"), ("hasty", "Hasty"),
                       ("copyist", "Copyist"), ("threads", "Threads")):  # fmt: skip
        card = f'adapter = "painter:{kind}"\nlicence = "CC0-1.0"\nrevision = "1"\nfamily = "other"\nwidth = 32\nheight = 32\n'
        write(tmp_path / "manifests" / "generators" / f"{name}.toml", card)
    return tmp_path


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> Inline:
    """No processes: for what does not depend on them."""
    run = Inline()
    monkeypatch.setattr(engine, "run", run)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return run


def entry(generator: str = "blind", count: int = 6, batch: int = 4, **more) -> Generate:
    return Generate(generator=generator, category="photos", count=count, batch=batch, **more)


def asked(place: Path, *faults: str, count: int = 4, batch: int = 4) -> Generate:
    """An entry for the painter whose list of prompts begins with faulty ones."""
    texts = [
        f"{fault}: {subject}" if fault else subject for fault, subject in zip([*faults, *[""] * count], SUBJECTS, strict=False)
    ]
    write(place / "list.txt", "\n".join(texts[:count]) + "\n")
    return entry("painter", count, batch, prompts="list.txt")


def draw(store: Store, *entries: Generate, pool: Pool = ONE, **more) -> module.Generated:
    return generate(store, entries, more.pop("seed", 0), pool, trust=True, **more)


def held(store: Store) -> dict[str, bytes]:
    return dict(store.images(store.in_part_order(store.facts(["id"])["id"].to_pylist())))


def reasons(store: Store) -> list[str]:
    return sorted(r["reason"] for r in store.rejects().to_pylist())


# --- what is drawn ----------------------------------------------------------------------------------------------------


def test_what_was_ordered_is_drawn_and_recorded(place):
    store = Store(place / "work")
    done = draw(store, asked(place, "JPEG", count=3, batch=2), pool=Pool(workers=2))
    assert (done.new, done.total, done.rejected, done.failed) == (3, 3, {}, 0)
    rows = store.facts().to_pylist()
    assert {(r["origin"], r["category"], r["generator"], r["family"], r["licence"], r["revision"]) for r in rows} == {
        ("synthetic", "photos", "painter", "other", "CC0-1.0", "1")
    }
    assert {r["prompt"] for r in rows} == {f"JPEG: {SUBJECTS[0]}", *SUBJECTS[1:3]}
    assert {(r["width"], r["height"], r["source"], r["pair_id"]) for r in rows} == {(32, 32, None, None)}
    assert len({r["seed"] for r in rows}) == 3
    params = [json.loads(r["params"]) for r in rows]
    assert sorted(p["batch"] for p in params) == [1, 2, 2]
    assert all((p["steps"], p["threads"]) == (3, "1") for p in params)
    assert sum("own" in p for p in params) == 2, "an image's own facts are kept"


def test_images_are_stored_without_loss_and_bytes_as_they_were_delivered(place, inline):
    import painter

    store = Store(place / "work")
    draw(store, asked(place, "JPEG", count=2))
    for row in store.facts().to_pylist():
        ((_, data),) = store.images([row["id"]])
        jpeg = str(row["prompt"]).startswith("JPEG")
        assert (row["codec"], row["extension"]) == (("jpeg", "jpg") if jpeg else ("png", "png"))
        if not jpeg:
            assert encoded(images.decode(data)) == encoded(painter.picture(row["seed"], 32, 32))


def test_what_may_not_enter_is_a_reject_with_its_reason_and_its_neighbours_are_kept(place, inline):
    store = Store(place / "work")
    done = draw(store, asked(place, "REFUSE", "WRONG", "BLANK", "BROKEN", count=6, batch=6))
    assert done.new == 2
    assert done.rejected == {"blank": 1, "moderation": 1, "not-an-image": 1, "wrong-size": 1}
    assert done.failed == 2, "what the model or a rule declines is no failure"
    rows = store.rejects().to_pylist()
    assert {(r["stage"], r["origin"], r["category"], r["generator_or_source"]) for r in rows} == {
        ("generate", "synthetic", "photos", "painter")
    }
    assert "32 x 32 ordered, 33 x 32 drawn" in {r["detail"] for r in rows}


@pytest.mark.parametrize("fault", ["RAISE", "NOTHING"])
def test_an_order_that_raises_is_found_by_halving_and_the_others_are_saved(place, inline, fault):
    store = Store(place / "work")
    done = draw(store, asked(place, "", fault, count=5, batch=5))
    assert (done.new, done.rejected, done.failed) == (4, {"failed": 1}, 1)
    (row,) = store.rejects().to_pylist()
    assert ("RuntimeError: out of memory" if fault == "RAISE" else "painter answered with NoneType") in row["detail"]
    assert {json.loads(r["params"]).get("cut") for r in store.facts().to_pylist()} == {True}, "a cut batch is recorded"


def test_an_order_that_kills_its_process_is_tried_twice_and_becomes_a_reject(place):
    store = Store(place / "work")
    done = draw(store, asked(place, "", "DIE", count=3, batch=3), pool=Pool(workers=2))
    assert (done.new, done.rejected, done.failed) == (2, {"killed-the-worker": 1}, 1)
    (row,) = store.rejects().to_pylist()
    assert "SIGKILL" in row["detail"]
    assert draw(store, asked(place, "", "DIE", count=3, batch=3)).new == 0, "and it is not tried again"


def test_an_order_that_hangs_is_given_up(place):
    store = Store(place / "work")
    done = draw(store, asked(place, "HANG", count=2, batch=1), pool=Pool(workers=2, attempts=1, timeout=10))
    assert (done.new, done.rejected) == (1, {"killed-the-worker": 1})
    (row,) = store.rejects().to_pylist()
    assert "no answer in 10 s" in row["detail"]


def test_a_process_killed_when_its_part_is_in_place_leaves_nothing_twice(place, monkeypatch):
    store = Store(place / "work")
    monkeypatch.setattr(module, "Finish", DeadAfterFinishing)
    draw(store, entry(count=3, batch=3), pool=Pool(workers=1))
    assert store.facts().num_rows == 3
    assert store.rejects().num_rows == 0


def test_what_kills_the_process_that_writes_is_found_by_halving_and_the_others_are_saved(place, monkeypatch):
    store = Store(place / "work")
    monkeypatch.setattr(module, "Finish", DeadByBytes)
    done = draw(store, asked(place, "", "BROKEN", count=3, batch=3), pool=Pool(workers=1))
    assert (done.new, done.rejected, done.failed) == (2, {"killed-the-worker": 1}, 1)


def test_the_next_batch_is_drawn_while_the_last_one_is_written_and_told_of(place):
    """The caller of `progress` waits for a mark that only the second batch's generator leaves."""
    marks = place / "marks"
    marks.mkdir()

    def wait(done: int, failed: int, total: int | None) -> None:
        patience = time.monotonic() + 60
        while done < 3 and not len(list(marks.iterdir())) > done:
            assert time.monotonic() < patience, "the next batch was not begun"
            time.sleep(0.01)

    wanted = entry("blind", count=3, batch=1, options={"marks": str(marks)})
    assert draw(Store(place / "work"), wanted, progress=wait).new == 3


def test_a_generator_that_forgets_an_order_is_found_out(place, inline):
    store = Store(place / "work")
    done = draw(store, entry("hasty", count=3, batch=3))
    assert (done.new, done.rejected) == (0, {"failed": 3})


def test_every_worker_computes_with_the_threads_it_was_given(place):
    store = Store(place / "work")
    draw(store, entry("threads", count=1), pool=Pool(workers=1, threads_per_worker=1))
    (row,) = store.facts().to_pylist()
    assert json.loads(row["params"])["pools"] == [1]


# --- what cannot be started -------------------------------------------------------------------------------------------


def one_sentence(words: str) -> None:
    assert "\n" not in words
    assert "Traceback" not in words


def test_a_card_that_cannot_be_used_here_says_why_and_rejects_nothing(place):
    store = Store(place / "work")
    with pytest.raises(UsageError, match=r"^painter needs a key: export PAINTER_KEY=\.\.\.$"):
        draw(store, asked(place).model_copy(update={"options": {"key": "missing"}}))
    assert store.ids() == set()


def test_a_model_that_is_not_there_is_one_sentence(place):
    pytest.importorskip("torch")
    write(place / "manifests" / "generators" / "lost.toml",
          'adapter = "imaginet_build.generators.gan:Gan"\nlicence = "MIT"\nfamily = "gan"\nmodel = "./nowhere"\n'
          'revision = "1"\nwidth = 8\nheight = 8\n')  # fmt: skip
    store = Store(place / "work")
    with pytest.raises(UsageError, match=r"there are no weights at './nowhere': get its makers' file, then: ") as error:
        draw(store, entry("lost", 2))
    one_sentence(str(error.value))
    assert store.ids() == set()


def test_weights_that_are_neither_here_nor_to_be_had_are_one_sentence(place):
    """`generate --generator sdxl` on a machine without the weights or a network."""
    pytest.importorskip("huggingface_hub")
    code = (
        "from imaginet_build.generate import generate\nfrom imaginet_build.store import Store\n"
        "from imaginet_build.engine import Pool\n"
        "from imaginet_build.recipe import Generate\nfrom imaginet_build.errors import UsageError\n"
        "try:\n    generate(Store('work'), [Generate(generator='sdxl', category='photos', count=4)], 0, Pool(workers=1))\n"
        "except UsageError as error:\n    print(error)\n"
    )
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "cache"), "HF_TOKEN": ""}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | offline, capture_output=True, text=True, check=True)
    one_sentence(done.stdout.strip())
    assert "sdxl" in done.stdout
    assert "stabilityai/stable-diffusion-xl-base-1.0" in done.stdout
    assert not (place / "work" / "parts").exists()


def test_an_adapter_from_elsewhere_needs_trust(place):
    with pytest.raises(UsageError, match="--trust-adapters"):
        generate(Store(place / "work"), [entry("blind")], 0, ONE)


def test_an_adapter_of_the_working_directory_is_found_by_every_process_once_it_is_trusted(place):
    write(place / "my_lab.py", "from painter import Blind\n\n\nclass Flux(Blind):\n    pass\n")
    card = (place / "manifests" / "generators" / "blind.toml").read_text()
    write(place / "manifests" / "generators" / "flux.toml", card.replace("painter:Blind", "my_lab:Flux"))
    assert draw(Store(place / "work"), entry("flux", 2)).new == 2


def test_an_unknown_generator_is_answered_with_the_nearest(place):
    with pytest.raises(UsageError, match=r"no generator 'bilnd' in manifests/generators; did you mean 'blind'\?"):
        draw(Store(place / "work"), entry("bilnd"))


def test_a_full_disk_ends_the_run_in_words_and_rejects_no_order(place, inline, monkeypatch):
    def full(*_, **__):
        raise StoreError("cannot write parts/x.parquet: No space left on device. What was finished is kept; run again to go on")

    store = Store(place / "work")
    with monkeypatch.context() as patched:
        patched.setattr(Store, "write_part", full)
        with pytest.raises(BuildError, match="No space left on device"):
            draw(store, entry(count=5))
    assert store.ids() == set()
    assert draw(store, entry(count=5)).total == 5


# --- exactly once -----------------------------------------------------------------------------------------------------


@pytest.fixture
def calm(place: Path, inline: Inline) -> Callable[..., dict[str, bytes]]:
    """What an undisturbed run of these entries holds."""

    def run(*entries: Generate) -> dict[str, bytes]:
        store = Store(place / f"calm{len(list(place.glob('calm*')))}")
        draw(store, *entries)
        return held(store)

    return run


def test_a_second_call_draws_nothing(place, inline):
    store = Store(place / "work")
    draw(store, entry())
    again = draw(store, entry())
    assert (again.new, again.total) == (0, 6)


def test_a_limit_draws_so_many_and_the_rest_later_with_the_same_bytes(place, inline, calm):
    wanted = entry("neighbourly", 7, 3)
    store = Store(place / "work")
    assert draw(store, wanted, limit=2).new == 2
    assert draw(store, wanted, limit=2).new == 2
    assert draw(store, wanted).new == 3
    assert held(store) == calm(wanted)


@pytest.mark.parametrize("shards", [2, 3])
def test_shards_are_disjoint_and_together_the_whole(place, inline, calm, shards):
    wanted = entry("neighbourly", 10, 3)
    store = Store(place / "work")
    drawn = [draw(store, wanted, shard=(number, shards)).new for number in range(1, shards + 1)]
    assert sum(drawn) == 10
    assert all(drawn)
    assert held(store) == calm(wanted)


def test_a_batch_found_half_finished_is_drawn_whole_and_only_the_missing_are_kept(place, inline, calm):
    """A part that vanished, say: its images come back with the bytes they had, and the others are not touched."""
    wanted = entry("neighbourly", 8, 4)
    store = Store(place / "work")
    draw(store, wanted, limit=2)
    first = store.parts()[0]
    draw(store, wanted)
    first.unlink()
    assert draw(Store(place / "work"), wanted).new == 2
    assert held(Store(place / "work")) == calm(wanted)


def test_the_order_of_the_entries_does_not_matter(place, inline, calm):
    one, other = entry("blind", 5), asked(place, count=5)
    assert calm(one, other) == calm(other, one)


def test_two_entries_that_ask_for_the_same_are_more_of_it_and_never_the_same_image(place, inline, calm):
    both = calm(entry("blind", 3), entry("blind", 5, 2))
    assert len(both) == len(set(both.values())) == 8
    assert both == calm(entry("blind", 5, 2), entry("blind", 3)) == calm(entry("blind", 8))


def test_another_batch_size_keeps_the_ids(place, inline, calm):
    assert calm(entry("neighbourly", 7, 2)).keys() == calm(entry("neighbourly", 7, 5)).keys()
    store = Store(place / "work")
    draw(store, entry("blind", 7, 2), limit=3)
    draw(store, entry("blind", 7, 5))
    assert held(store) == calm(entry("blind", 7, 2))


def test_more_of_the_same_keeps_what_there_was(place, inline, calm):
    small, large = calm(entry("blind", 4)), calm(entry("blind", 9))
    assert small.items() <= large.items()


def test_another_seed_is_another_data_set(place, inline):
    stores = [Store(place / f"work{seed}") for seed in (0, 1)]
    for seed, store in enumerate(stores):
        draw(store, entry(), seed=seed)
    assert not held(stores[0]).keys() & held(stores[1]).keys()
    assert not set(held(stores[0]).values()) & set(held(stores[1]).values())


def test_any_number_of_workers_gives_the_same_bytes(place, monkeypatch):
    wanted = entry("neighbourly", 9, 2)
    results = []
    for workers in (1, 3):
        store = Store(place / f"work{workers}")
        draw(store, wanted, pool=Pool(workers=workers))
        results.append((held(store), store.facts().to_pylist()))
    assert results[0] == results[1]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_interrupted_limited_and_sharded_ends_the_same(place, monkeypatch, tmp_path_factory, data):
    """Two shards, one after the other, each stopped and limited at will, then finished: the undisturbed run's ids and bytes."""
    entries = [
        entry("neighbourly", data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))),
        asked(place, "REFUSE", "RAISE", "BLANK", count=8, batch=data.draw(st.integers(1, 4))),
    ]
    work = tmp_path_factory.mktemp("storm")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(engine, "run", Inline())
    calm, stormy = Store(work / "calm"), Store(work / "stormy")
    draw(calm, *entries)
    for attempt in range(data.draw(st.integers(0, 6))):
        monkeypatch.setattr(engine, "run", Inline(attempt, data.draw(st.integers(0, 4))))
        shard, limit = data.draw(st.sampled_from([(1, 2), (2, 2), (1, 1)])), data.draw(st.none() | st.integers(0, 5))
        try:
            draw(stormy, *data.draw(st.permutations(entries)), shard=shard, limit=limit)
        except Interrupted:
            continue
    monkeypatch.setattr(engine, "run", Inline())
    draw(stormy, *entries)
    assert stormy.ids() == calm.ids()
    assert reasons(stormy) == reasons(calm) == ["blank", "failed", "moderation"]
    assert held(stormy) == held(calm)


# --- aligned generators -----------------------------------------------------------------------------------------------


def reals(place: Path, store: Store, count: int = 4) -> None:
    for number in range(count):
        write(place / "images" / f"{number}.png", png(number, 30 + number, 20 + number))
    collect(store, [Collect(source="folder", options={"root": "images", "origin": "real", "category": "photos"})], 0, ONE)


def test_an_aligned_image_is_tied_to_its_real_one_and_has_its_size(place, inline):
    store = Store(place / "work")
    reals(place, store)
    assert draw(store, entry("copyist", 3)).new == 3
    rows = store.facts().to_pylist()
    by_id = {r["id"]: r for r in rows if r["origin"] == "real"}
    fakes = [r for r in rows if r["origin"] == "synthetic"]
    assert len({r["pair_id"] for r in fakes}) == 3
    for fake in fakes:
        real = by_id[fake["pair_id"]]
        assert (fake["group"], fake["width"], fake["height"]) == (real["group"], real["width"], real["height"])
        assert real["pair_id"] == real["id"]


def test_more_real_images_do_not_rename_what_was_drawn(place, inline):
    store = Store(place / "work")
    reals(place, store, 3)
    draw(store, entry("copyist", 3))
    before = {r["id"]: r["pair_id"] for r in store.facts(["pair_id", "origin"]).to_pylist() if r["origin"] == "synthetic"}
    reals(place, store, 8)
    assert draw(store, entry("copyist", 8)).new == 5
    after = {r["id"]: r["pair_id"] for r in store.facts(["pair_id", "origin"]).to_pylist() if r["origin"] == "synthetic"}
    assert before.items() <= after.items()
    assert len(set(after.values())) == 8


def test_more_than_there_are_real_images_is_said(place, inline, caplog):
    store = Store(place / "work")
    reals(place, store, 2)
    assert draw(store, entry("copyist", 5)).new == 2
    assert "asked for 5, but there are 2 real images of photos" in caplog.text


def test_an_aligned_generator_without_real_images_says_what_comes_first(place):
    with pytest.raises(UsageError, match="the work folder has none of photos: run build-imaginet collect first"):
        draw(Store(place / "work"), entry("copyist"))


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_counts_what_is_drawn_and_refused_to_the_total(place, inline):
    said: list[tuple[int, int, int | None]] = []
    draw(Store(place / "work"), asked(place, "REFUSE", count=5, batch=2), progress=lambda *numbers: said.append(numbers))
    assert said[-1] == (4, 1, 5)
    assert [done + failed for done, failed, _ in said] == sorted(done + failed for done, failed, _ in said)
