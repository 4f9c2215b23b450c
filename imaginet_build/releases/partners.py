"""Who is in the robustness set, and with whom: whole groups in balance, and a synthetic partner for every real image."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest

from imaginet_build.records import make_id, seed_of

Cell = tuple[int, int]
"""A content type and a label."""


@dataclass(frozen=True, slots=True)
class Parents:
    """Test images, n of each: `label` 0 real, 1 synthetic; `kind` the content type; `maker` the generator or source; `side`
    the shorter side in pixels; `pair` what the images of one pair share, None for no pair."""

    id: Sequence[str]
    label: Sequence[int]
    kind: Sequence[int]
    maker: Sequence[str]
    pair: Sequence[str | None]
    group: Sequence[str]
    side: Sequence[int]


def chosen(parents: Parents, among: Iterable[int], limit: int | None, seed: int) -> list[int]:
    """At most `limit` of the rows `among`, in their order; all of them without a limit.

    Groups are whole, both classes of a content type are equally many as nearly as groups allow, and content types and makers
    keep their shares. Which groups it is follows from seed and names, never from the order of the rows.
    """
    rows = list(among)
    if limit is None or limit >= len(rows):
        return rows
    quota = _quotas(Counter((parents.kind[row], parents.label[row]) for row in rows), limit // 2)
    members: dict[str, list[int]] = defaultdict(list)
    for row in sorted(rows, key=parents.id.__getitem__):
        members[parents.group[row]].append(row)
    cells = {name: Counter((parents.kind[row], parents.label[row]) for row in own) for name, own in members.items()}
    taken: list[str] = []
    held: Counter[Cell] = Counter()
    for name in _in_turn(parents, members, seed):
        if all(held[cell] + n <= quota[cell[0]] for cell, n in cells[name].items()):
            taken.append(name)
            held += cells[name]
    for name in reversed(taken.copy()):
        if all(n <= held[kind, label] - held[kind, 1 - label] for (kind, label), n in cells[name].items()):
            taken.remove(name)
            held -= cells[name]
    keep = {row for name in taken for row in members[name]}
    return [row for row in rows if row in keep]


def _quotas(have: Counter[Cell], total: int) -> dict[int, int]:
    """How many of each class every content type may give: `total` in the shares of what it holds of both, by largest rest."""
    both = {kind: min(have[kind, 0], have[kind, 1]) for kind in sorted({kind for kind, _ in have})}
    every = max(sum(both.values()), 1)
    quota = {kind: total * n // every for kind, n in both.items()}
    rests = sorted(both, key=lambda kind: (-(total * both[kind] % every), kind))
    for kind in rests[: min(total, sum(both.values())) - sum(quota.values())]:
        quota[kind] += 1
    return {kind: min(n, both[kind]) for kind, n in quota.items()}


def _in_turn(parents: Parents, members: dict[str, list[int]], seed: int) -> list[str]:
    """The groups in an order that nobody chose, in which every beginning holds each content type and maker in its share."""
    strata: dict[tuple[int, int, str], list[tuple[int, str]]] = defaultdict(list)
    for name, rows in members.items():
        first = rows[0]
        key = seed_of(name, f"robustness {seed}")
        strata[parents.kind[first], parents.label[first], parents.maker[first]].append((key, name))
    turns = []
    for own in strata.values():
        own.sort()
        ends = list(accumulate(len(members[name]) for _, name in own))
        turns += [((end - len(members[name]) / 2) / ends[-1], key, name) for end, (key, name) in zip(ends, own, strict=True)]
    return [name for _, _, name in sorted(turns)]


def partners(parents: Parents, rows: Sequence[int]) -> dict[int, tuple[str, int]]:
    """For each of `rows` the name that its random numbers belong to, and the side in pixels that it and its partner can give.

    Partners, a real and a synthetic image of one content type, have both alike. Images of one pair are partners; the others
    meet in the order of their sides. Who finds none, where the classes are not equally many, is alone.
    """
    halves: dict[Cell, list[int]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (parents.side[row], seed_of(parents.id[row], "robustness partner"))):
        halves[parents.kind[row], parents.label[row]].append(row)
    found: dict[int, tuple[str, int]] = {}
    for kind in sorted({kind for kind, _ in halves}):
        real, synthetic = halves[kind, 0], halves[kind, 1]
        couples = list(_pairs(parents, real, synthetic))
        met = {row for couple in couples for row in couple}
        left = ([row for row in half if row not in met] for half in (real, synthetic))
        for couple in (*couples, *zip_longest(*left)):
            own = [row for row in couple if row is not None]
            told = make_id("robustness", *(parents.id[row] for row in own)), min(parents.side[row] for row in own)
            found |= dict.fromkeys(own, told)
    return found


def _pairs(parents: Parents, real: Sequence[int], synthetic: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first real and the first synthetic image of every pair."""
    first: dict[str, int] = {}
    for row in reversed(real):
        if pair := parents.pair[row]:
            first[pair] = row
    for row in synthetic:
        if (other := first.pop(parents.pair[row] or "", None)) is not None:
            yield other, row
