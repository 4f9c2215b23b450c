"""The ledger of one generator that costs money: a line on disk before each request, and one after.

`<work>/paid/<generator>/ledger.jsonl` only grows. A request's line is on the disk before the request leaves, and an answered
image lies beside the ledger before its own line is written, so that killing any process at any moment leaves three kinds of
requests: never sent, answered and kept, or *unknown*, which may have been billed and is never asked again in silence.

Several processes, on one machine or over a file system with locks, share one ledger: whoever writes holds its lock. A sender
holds a lock of its own as long as it lives, so that a request under way is told from one whose sender was killed.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from imaginet_build.errors import BuildError
from imaginet_build.paying.answers import Answers
from imaginet_build.paying.journal import Journal

State = Literal["open", "answered", "refused", "failed", "unknown"]
BILLED_IN_VAIN = frozenset({"timeout", "dropped", "killed", "server-error", "lost-in-batch", "bought-before", "failed"})
"""Reasons of refusals that hide money: the image may have been, or was, paid for. `ask_again` asks for these anew."""


SOON = 0.2
"""Seconds until it is worth looking again whether a budget has room."""


ROOM = 64 << 20
"""Bytes that must be free before a request leaves: an image that cannot be kept is paid for and lost."""


class Stopped(BuildError):
    """A service, an account or a budget gives no more for now. What came is kept."""


class Spent(BuildError):
    """The next request would pass a budget."""


class Busy(BuildError):
    """Another process that lives has asked for the same image."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be spent in all (None: any amount) and how many requests may begin within a minute."""

    usd: float | None = None
    images: int | None = None
    per_minute: float | None = None


@dataclass(slots=True)
class Entry:
    """One order's standing. `usd`: what its last request cost or holds back; `batch`: the vendor's batch it went with;
    `counted`: whether that request counts as billed."""

    state: State
    attempts: int = 0
    usd: float = 0.0
    sender: str = ""
    batch: str | None = None
    reason: str = ""
    detail: str = ""
    counted: bool = True


@dataclass(slots=True)
class Totals:
    """All requests so far. `images`: those that were or may have been billed, `usd` what they cost (or hold back), `unknown`
    those whose outcome nobody knows, `seconds` what the answered ones took."""

    images: int = 0
    usd: float = 0.0
    answered: int = 0
    unknown: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Bundle:
    """A vendor's batch: its token in our lines, its orders, and the vendor's own name for it once that is known."""

    token: str
    orders: list[str]
    at: float
    sender: str
    name: str | None = None


class Ledger:
    """The ledger in `root`, or one in memory alone (None), which keeps no images. Not for several threads at once."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root
        self.answers = Answers(root and root / "answers")
        self.entries: dict[str, Entry] = {}
        self.bundles: dict[str, Bundle] = {}
        self.totals = Totals()
        self.until = 0.0
        self._owners: dict[str, str] = {}
        self._begun: deque[float] = deque(maxlen=10_000)
        self._journal = Journal(root, "ledger.jsonl", self._apply)

    def read(self) -> Ledger:
        """Itself, with every line read."""
        if self.root is None or self.root.is_dir():
            with self._journal.locked():
                pass
        return self

    # --- before a request ---------------------------------------------------------------------------------------------

    def standing(self, order: str) -> Entry | None:
        """What is known of an order; what a dead process left is settled first. An image that lies here though no line says
        that it was asked for (somebody cut the ledger) was paid for all the same."""
        with self._journal.locked():
            entry = self.entries.get(order)
            if entry is None and (kept := self.answers.get(order)) is not None:
                usd, sender = float(kept[1]["usd"] or 0.0), self._journal.live()
                self._write([{"event": "sent", "order": order, "attempt": 1, "usd": usd, "sender": sender, "recovered": True}])
                self._settle([order])
            if entry is not None and entry.state == "open" and entry.batch is None and not self._journal.lives(entry.sender):
                self._settle([order])
            return self.entries.get(order)

    def begin(self, orders: Sequence[str], usd: float, limits: Limits, what: Mapping[str, object], batch: str = "") -> float:
        """Write down requests that are about to leave, each holding back `usd`. The seconds to wait first where it is not time
        yet (a pause, `per_minute`): nothing is written then. Raises `Spent`, where they would pass a budget, `Busy`, and
        OSError where the disk has no room for what would come."""
        with self._journal.locked():
            if self.root is not None and shutil.disk_usage(self.root).free < ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.root))
            if (wait := max(self.until - time.time(), self._too_soon(limits))) > 0:
                return wait
            for order in orders:
                known = self.entries.get(order)
                if known is not None and known.state == "open":
                    where = "another process: give each its own --shard" if not known.batch else "a batch: set mode to batch"
                    raise Busy(f"order {order} is being drawn by {where}")
            if not self._afford(len(orders), usd, limits, wait=not batch):
                return SOON
            sender = self._journal.live()
            lines = [
                {"event": "sent", "order": order, "attempt": self._attempts(order) + 1, "usd": usd, "sender": sender, **what}
                | ({"batch": batch} if batch else {})
                for order in orders
            ]
            self._write(lines)
        return 0.0

    def affordable(self, usd: float, limits: Limits) -> int:
        """How many more requests of `usd` each the budgets allow."""
        self.read()
        rest = [float(limits.images - self.totals.images)] if limits.images is not None else []
        if limits.usd is not None and usd > 0:
            rest.append((limits.usd - self.totals.usd) / usd + 1e-9)
        return max(0, int(min(rest, default=1e12)))

    def _attempts(self, order: str) -> int:
        return self.entries[order].attempts if order in self.entries else 0

    def _too_soon(self, limits: Limits) -> float:
        if limits.per_minute is None:
            return 0.0
        span, most = (60.0, int(limits.per_minute)) if limits.per_minute >= 1 else (60.0 / limits.per_minute, 1)
        now = time.time()
        # What lies further ahead was begun before a clock was set back, and says nothing of the last minute.
        recent = [at for at in self._begun if now - span < at <= now + span]
        return min(span, recent[-most] + span - now) if len(recent) >= most else 0.0

    def _afford(self, count: int, usd: float, limits: Limits, wait: bool) -> bool:
        """Whether a budget allows so many requests. False (only with `wait`): not before some that are under way are through,
        since these hold back money that they may not take. Raises `Spent`."""
        why = self._beyond(count, usd, limits, self.totals.images, self.totals.usd)
        if why and wait:
            under_way = {name: entry for name, entry in self.entries.items() if entry.state == "open" and entry.batch is None}
            if dead := [name for name, entry in under_way.items() if not self._journal.lives(entry.sender)]:
                self._settle(dead)
            held = [entry.usd for entry in under_way.values() if entry.state == "open"]
            if held and not self._beyond(count, usd, limits, self.totals.images - len(held), self.totals.usd - sum(held)):
                return False
        if why:
            raise Spent(why)
        return True

    def _beyond(self, count: int, usd: float, limits: Limits, images: int, spent: float) -> str | None:
        if limits.images is not None and images + count > limits.images:
            return f"budget_images = {limits.images} is spent: {images} were or may have been billed"
        if limits.usd is not None and spent + count * usd > limits.usd + 1e-9:
            return (
                f"budget_usd = {limits.usd:g} allows no request of up to ${usd:.4g} more: ${spent:.4f} is spent or held back "
                f"for {images} images"
            )
        return None

    # --- after a request ----------------------------------------------------------------------------------------------

    def answered(
        self, order: str, image: bytes, usage: Mapping[str, int], usd: float | None, seconds: float = 0.0
    ) -> str | None:
        """Keep an image, then write down that it came. The order that was given the same bytes before, if one was: the image is
        that one's then, and not kept."""
        digest = sha256(image).hexdigest()
        with self._journal.locked():
            owner = self._owners.get(digest, order)
            if owner != order or self.entries[order].state == "answered":
                return owner if owner != order else None
            self.answers.keep(order, image, {"usage": dict(usage), "usd": usd})
            self._close(order, "answered", usd, usage=dict(usage), sha256=digest, seconds=round(seconds, 3))
        return None

    def refused(
        self, order: str, reason: str, detail: str, *, billed: bool, usage: Mapping[str, int], usd: float | None
    ) -> None:
        """A refusal that stands: the same request would meet it again. `billed`: it cost something all the same."""
        with self._journal.locked():
            cost = usd if billed else 0.0
            self._close(order, "refused", cost, reason=reason, detail=detail, billed=billed, usage=dict(usage))

    def failed(self, order: str, reason: str) -> None:
        """Nothing was drawn and nothing billed: the order may be sent again."""
        with self._journal.locked():
            self._close(order, "failed", 0.0, reason=reason)

    def unknown(self, order: str, reason: str, detail: str) -> None:
        """It may have been billed, and nothing came."""
        with self._journal.locked():
            self._close(order, "unknown", None, reason=reason, detail=detail)

    def pause(self, seconds: float) -> None:
        """Nobody sends for so long: not this process, not another, and not the next run."""
        with self._journal.locked():
            self._write([{"event": "pause", "until": round(time.time() + seconds, 3)}])

    def submitted(self, batch: str, name: str) -> None:
        """The vendor accepted a batch and calls it `name`."""
        with self._journal.locked():
            self._write([{"event": "submitted", "batch": batch, "name": name}])

    def settle(self) -> list[str]:
        """Close what processes that died left open; the orders that may have been billed and were lost."""
        with self._journal.locked():
            self._journal.sweep()
            left = [name for name, entry in self.entries.items() if entry.state == "open" and entry.batch is None]
            return self._settle([name for name in left if not self._journal.lives(self.entries[name].sender)])

    def _settle(self, orders: Sequence[str]) -> list[str]:
        lost = []
        for order in orders:
            if (kept := self.answers.get(order)) is not None:
                image, about = kept
                digest = sha256(image).hexdigest()
                self._close(order, "answered", about["usd"], usage=about["usage"], sha256=digest, recovered=True)
                continue
            detail = "the process that asked for it was ended before the answer came"
            self._close(order, "unknown", None, reason="killed", detail=detail)
            lost.append(order)
        return lost

    def _close(self, order: str, event: State, usd: float | None, **facts: object) -> None:
        self._write([{"event": event, "order": order} | ({} if usd is None else {"usd": round(usd, 8)}) | facts])

    # --- what the lines mean ------------------------------------------------------------------------------------------

    def _write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        now = round(time.time(), 3)
        self._journal.append([{"at": now, **line} for line in lines])

    def _apply(self, line: Mapping[str, Any]) -> None:
        event = line["event"]
        if event == "pause":
            # Never longer than it was asked for, though the clock was set back since.
            length = _finite(line["until"]) - _finite(line["at"])
            self.until = max(self.until, min(float(line["until"]), time.time() + length))
        elif event == "submitted":
            self.bundles[line["batch"]].name = str(line["name"])
        elif event == "sent":
            self._apply_sent(line)
        else:
            self._apply_end(line)

    def _apply_sent(self, line: Mapping[str, Any]) -> None:
        old, held, at = self.entries.get(line["order"]), _finite(line["usd"]), _finite(line["at"])
        batch, sender = line.get("batch"), line["sender"]
        if not re.fullmatch(r"\w{1,64}", sender):  # the name of a file
            raise ValueError(sender)
        self.entries[line["order"]] = Entry("open", (old.attempts if old else 0) + 1, held, sender, batch)
        self.totals.images += 1
        self.totals.usd += held
        if batch is None:
            self._begun.append(at)
        else:
            self.bundles.setdefault(batch, Bundle(batch, [], at, sender)).orders.append(line["order"])

    def _apply_end(self, line: Mapping[str, Any]) -> None:
        entry, totals, state = self.entries[line["order"]], self.totals, line["event"]
        if state not in ("answered", "refused", "failed", "unknown"):
            raise ValueError(state)
        usd, seconds = _finite(line.get("usd", entry.usd)), _finite(line.get("seconds", 0.0))
        counted = state != "failed" and not (state == "refused" and not line["billed"])
        totals.unknown += (state == "unknown") - (entry.state == "unknown")
        totals.answered += (state == "answered") - (entry.state == "answered")
        totals.seconds += seconds
        # Two processes that read one batch may both close an order: it is counted once.
        totals.images += counted - entry.counted
        totals.usd += usd - entry.usd
        entry.counted = counted
        entry.state, entry.usd = state, usd
        entry.reason, entry.detail = str(line.get("reason", "")), str(line.get("detail", ""))
        if state == "answered":
            self._owners.setdefault(line["sha256"], line["order"])

    @property
    def me(self) -> str:
        """Our own name as a sender."""
        return self._journal.me

    def leftover(self) -> set[str]:
        """The orders whose images were paid for and not removed since."""
        with self._journal.locked():
            return self.answers.names()

    def lives(self, sender: str) -> bool:
        """Whether the process that sent under this name still runs."""
        with self._journal.locked():
            return self._journal.lives(sender)


def _finite(number: Any) -> float:
    """A number of a line; a line with another is broken."""
    if not math.isfinite(value := float(number)):
        raise ValueError(number)
    return value
