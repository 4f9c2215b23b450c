"""Integer programmes built block by block and solved by HiGHS (through `scipy.optimize.milp`), the same answer every time.

Limits are counted in nodes of the search, never in seconds, so that a slow machine finds what a fast one finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Columns = NDArray[np.int64]
Numbers = NDArray[np.float64]

NODES = 60
"""Nodes of the search after which the best answer so far is taken, and its gap said."""

GAP = 1e-3
"""An answer this near to the best possible one is taken without more search."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`values`: one whole number for each column. `cost`: the objective. `gap`: how much better, at the most, another answer
    could be, as a part of the cost (0: none is)."""

    values: NDArray[np.int64]
    cost: float
    gap: float


class Model:
    """Columns (unknowns), rows (constraints) and one objective at a time."""

    def __init__(self) -> None:
        self.low: list[Numbers] = []
        self.high: list[Numbers] = []
        self.whole: list[NDArray[np.uint8]] = []
        self.width = 0
        self.at: list[tuple[Columns, Columns, Numbers]] = []
        self.row_low: list[Numbers] = []
        self.row_high: list[Numbers] = []
        self.height = 0
        self.prices: list[tuple[Columns, Numbers]] = []

    def columns(self, low: ArrayLike, high: ArrayLike, count: int | None = None, whole: bool = True) -> Columns:
        """New unknowns between `low` and `high` (numbers, or one for each); whole numbers unless told."""
        lows, highs = np.broadcast_arrays(np.asarray(low, dtype=float), np.asarray(high, dtype=float))
        n = lows.size if count is None else count
        self.low.append(np.broadcast_to(lows.ravel(), n).copy())
        self.high.append(np.broadcast_to(highs.ravel(), n).copy())
        self.whole.append(np.full(n, whole, dtype=np.uint8))
        self.width += n
        return np.arange(self.width - n, self.width)

    def rows(
        self, parts: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]], low: ArrayLike, high: ArrayLike, count: int
    ) -> None:
        """`count` constraints low <= sum of value x column <= high. `parts`: (row, column, value) arrays; rows count from 0."""
        for row, column, value in parts:
            rows, columns, values = np.broadcast_arrays(
                np.asarray(row, dtype=np.int64), np.asarray(column, dtype=np.int64), np.asarray(value, dtype=float)
            )
            self.at.append((rows.ravel() + self.height, columns.ravel(), values.ravel()))
        self.row_low.append(np.broadcast_to(np.asarray(low, dtype=float), count).copy())
        self.row_high.append(np.broadcast_to(np.asarray(high, dtype=float), count).copy())
        self.height += count

    def price(self, columns: Columns, prices: ArrayLike) -> None:
        """Add to the objective, which is made as small as it can be."""
        self.prices.append((columns, np.broadcast_to(np.asarray(prices, dtype=float), columns.shape).copy()))

    def near(self, row: Columns, column: Columns, targets: ArrayLike, price: float, values: ArrayLike = 1.0) -> None:
        """Price the distance of each sum (one a target; `row` says which a column belongs to) from its target.

        Between the whole numbers around a fractional target the price is their straight line: exact for whole sums, and
        without the half-way answers that would send the search astray.
        """
        target = np.asarray(targets, dtype=float)
        n = len(target)
        floor = np.floor(target + 1e-9)
        part = np.clip(target - floor, 0.0, 1.0)
        between = self.columns(0, 1, n, whole=False)
        over, under = self.columns(0, np.inf, n, whole=False), self.columns(0, np.inf, n, whole=False)
        each = np.arange(n)
        self.rows([(row, column, values), (each, between, -1.0), (each, over, -1.0), (each, under, 1.0)], floor, floor, n)
        self.price(between, price * (1 - 2 * part))
        self.price(over, price)
        self.price(under, price)

    def solve(self, nodes: int = NODES, gap: float = GAP) -> Answer | None:
        """The cheapest answer found, or None where the limit of nodes allowed none (or there is none at all)."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        cost = np.zeros(self.width)
        for columns, prices in self.prices:
            np.add.at(cost, columns, prices)
        low, high = np.concatenate(self.low), np.concatenate(self.high)
        whole: NDArray[np.uint8] = np.concatenate(self.whole)
        rows, columns, values = (np.concatenate([block[i] for block in self.at]) for i in range(3))
        matrix = csr_array((values, (rows, columns)), shape=(self.height, self.width))
        constraint = LinearConstraint(matrix, np.concatenate(self.row_low), np.concatenate(self.row_high))
        found = milp(
            cost,
            integrality=whole,
            bounds=Bounds(low, high),
            constraints=constraint,
            options={"node_limit": nodes, "mip_rel_gap": gap},
        )
        if found.x is None:
            return None
        bound = getattr(found, "mip_dual_bound", None)
        short = 0.0 if bound is None else max(float(found.fun) - float(bound), 0.0)
        return Answer(np.rint(found.x).astype(np.int64), float(found.fun), short / max(abs(float(found.fun)), 1.0))

    def settle(self) -> None:
        """Forget the objective, to give another."""
        self.prices.clear()
