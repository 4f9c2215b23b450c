"""What becomes of a request that costs money: an answer, a trouble, or a halt of all that would follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from imaginet_build.errors import BuildError, UsageError
from imaginet_build.paying.ledger import Stopped
from imaginet_build.records import Refusal

MAY_BE_BILLED = "it may have been billed and is not asked again by itself"
_DROPPED = frozenset({"OSError", "NetworkError", "ProtocolError", "ClientError", "APIConnectionError"})
_NOT_SENT = frozenset({"ConnectError", "ConnectTimeout", "ClientConnectorError", "ClientConnectorDNSError", "PoolTimeout"})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a whole answer held: the image's bytes, or why it is none; the tokens it was billed by; whether it was billed."""

    image: bytes | Refusal
    usage: Mapping[str, int] = field(default_factory=dict)
    billed: bool = True


@dataclass(frozen=True, slots=True)
class Trouble:
    """What an error means. `then`: `refuse` (this order alone, for good), `again` (the service failed; it may have been
    billed), `unsent` (nothing left this machine), `lost` (no answer; it may have been billed), `wait` (a rate limit, of
    `seconds` if it says so), `stop` (every order would meet it)."""

    then: Literal["refuse", "again", "unsent", "lost", "wait", "stop"]
    refusal: Refusal
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Halt:
    """Why nothing more is sent. `wrong`: the call is at fault, and not what happened on the way."""

    why: str
    wrong: bool = False

    def error(self, who: str, more: str = "") -> BuildError:
        """What `draw` raises for it."""
        return (UsageError if self.wrong else Stopped)(f"{who}: {self.why}{more}")


def silence(error: Exception, host: str, timeout: float) -> Trouble:
    """What an error means that is no answer of the service: whatever the client's transport raised, or `TimeoutError`."""
    chain: list[BaseException] = [error]
    while (more := chain[-1].__cause__ or chain[-1].__context__) is not None and len(chain) < 10:
        chain.append(more)
    names = {kind.__name__ for one in chain for kind in type(one).__mro__}
    if "TooLarge" in names:
        return Trouble("lost", Refusal("too-large", f"the answer of {host} has no end: {MAY_BE_BILLED}"))
    if names & _NOT_SENT:
        return Trouble("unsent", Refusal("unreachable", f"{host} cannot be reached: check base_url and the network"))
    if any("Timeout" in name for name in names):
        said = f"no whole answer from {host} in {timeout:g} s: {MAY_BE_BILLED}"
        return Trouble("lost", Refusal("timeout", said))
    if names & _DROPPED:
        return Trouble("lost", Refusal("dropped", f"{host} dropped the connection: {MAY_BE_BILLED}"))
    return Trouble("lost", Refusal("dropped", f"{type(error).__name__}: {error}: {MAY_BE_BILLED}"))
