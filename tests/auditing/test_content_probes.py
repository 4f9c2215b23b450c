"""Beside the gate: captions, embeddings and pixels of a sample of whole groups; and what a class without words means."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from imaginet_build.audit import audit_facts
from imaginet_build.auditing import facts
from imaginet_build.auditing.content_probes import EMBEDDING, WORDS, numbers_of
from imaginet_build.auditing.facts import FACTS, Target, drawn, share_of
from imaginet_build.auditing.pixel_probes import EXPECTED, JOINT, PIXEL_PROBES

STREET, PORTRAIT = "a photograph of a street in the rain", "masterpiece, portrait, highly detailed"


def table(rows: int = 120, **columns: list[object]) -> pa.Table:
    usual: dict[str, list[object]] = {
        "path": [f"{i}.jpg" for i in range(rows)],
        "origin": [("real", "synthetic")[i % 2] for i in range(rows)],
        "content_type": ["photos"] * rows,
        "group": [f"g{i // 2 if i < 40 else i}" for i in range(rows)],
        "extension": ["jpg"] * rows,
    }
    held = usual | columns
    return pa.table({f.name: pa.array(held.get(f.name, [None] * rows), f.type) for f in FACTS}, schema=FACTS)


def test_words_that_tell_the_classes_apart_are_found_and_never_refuse() -> None:
    captions = [STREET if i % 2 == 0 else PORTRAIT for i in range(120)]
    result = audit_facts(Target("x", "list", table(caption=captions)), permutations=20)
    line = result.row("origin", WORDS)
    assert line is not None
    assert (line.balanced_accuracy, line.gate) == (1.0, False)
    assert line.p is not None
    assert line.p < 0.05
    assert result.gate.verdict == "passed"
    assert WORDS not in {leak.probe for leak in result.leaks}
    assert result.notes[WORDS].startswith("should not tell")


def test_the_same_words_for_both_classes_say_nothing() -> None:
    random = np.random.default_rng(0)
    subjects = ["street", "portrait", "mountain", "cat", "harbour"]
    captions = [f"a picture of a {subjects[k]}" for k in random.integers(0, 5, 120)]
    line = audit_facts(Target("x", "list", table(caption=captions)), permutations=20).row("origin", WORDS)
    assert line is not None
    assert line.balanced_accuracy < 0.65


def test_captions_of_one_class_alone_are_said_and_not_guessed_from() -> None:
    captions = [None if i % 2 == 0 else PORTRAIT for i in range(120)]
    result = audit_facts(Target("x", "list", table(caption=captions)), permutations=20)
    assert result.row("origin", WORDS) is None
    assert any(s.what == "words: fewer than two classes have it" for s in result.skipped)


def test_an_embedding_counts_where_it_is_whole() -> None:
    random = np.random.default_rng(1)
    vectors: list[object] = [[float(i % 2) + float(random.normal(0, 0.2)), float(random.normal())] for i in range(120)]
    vectors[3], vectors[4], vectors[6] = None, [], [1.0, 2.0, 3.0]
    (numbers,) = numbers_of(table(embedding=vectors))
    assert numbers.name == EMBEDDING
    assert numbers.rows.sum() == 117
    assert numbers.values.shape == (117, 2)
    line = audit_facts(Target("x", "list", table(embedding=vectors)), permutations=20).row("origin", EMBEDDING)
    assert line is not None
    assert line.balanced_accuracy > 0.9


def test_words_nobody_shares_are_no_probe() -> None:
    assert numbers_of(table(caption=[f"word{i}" for i in range(120)])) == []


def test_a_sample_is_whole_groups_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "PIXEL_ROWS", 30)
    assert share_of(120, True) == 0.25
    assert share_of(120, False) == 0
    (numbers,) = numbers_of(table(caption=[STREET] * 120))
    groups = np.array(table()["group"].to_pylist())
    chosen = set(groups[numbers.rows])
    assert 10 < numbers.rows.sum() < 60
    assert set(np.flatnonzero(numbers.rows)) == {i for i in range(120) if groups[i] in chosen}
    assert all(drawn(name, 0.25) == (name in chosen) for name in set(groups))


def test_everything_beside_the_gate_says_what_to_expect() -> None:
    for name in (*PIXEL_PROBES, JOINT, WORDS, EMBEDDING, "bytes_per_pixel"):
        assert EXPECTED[name].startswith(("may tell", "should not tell"))
