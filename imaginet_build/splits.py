"""Groups into train, calibration and test: whole, and every cell in its share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from imaginet_build.records import SPLITS, Split, make_id

Rows = np.typing.NDArray[np.int64]


def assign(
    groups: Sequence[str], strata: Sequence[str], shares: Mapping[Split, float], seed: int, test_only: Sequence[bool] = ()
) -> list[Split]:
    """The split of every row. `groups`, `strata`: one name a row; rows of a group go together, and every stratum is divided in
    `shares` as nearly as its groups allow. Groups with a row marked in `test_only` go to the test split.

    The largest groups are placed first, each where its strata lack most; single rows fill what is left. Chance (ties, order
    within a stratum) comes from a hash of seed and group name.
    """
    names = [split for split in SPLITS if shares.get(split, 0) > 0]
    share = np.array([shares[split] for split in names])
    kinds = {name: number for number, name in enumerate(sorted(set(strata)))}
    members: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    total = np.bincount([kinds[s] for s in strata], minlength=len(kinds)).astype(float)
    room = share[:, None] * total[None, :]
    order = sorted(members, key=lambda group: (-len(members[group]), make_id(seed, group)))
    forced = {groups[row] for row, held in enumerate(test_only) if held}
    result: list[Split] = ["train"] * len(groups)
    for group in sorted(order, key=lambda group: group not in forced):
        rows = members[group]
        counts = np.bincount([kinds[strata[row]] for row in rows], minlength=len(kinds))
        if group in forced:
            choice = names.index("test")
        else:
            # What is still missing of each stratum, as a part of what the split should get: small splits are not starved.
            need = (room / np.maximum(share[:, None] * total[None, :], 1e-9)) @ counts
            choice = int(np.argmax(need))
        room[choice] -= counts
        for row in rows:
            result[row] = names[choice]
    return result
