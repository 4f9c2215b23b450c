"""Is it real? What a file says of itself, held against what a source's card or a recipe's entry asks of it.

Every refusal has a stable reason: `ai-metadata`, `ai-software`, `ai-text`, `ai-c2pa`, `ai-watermark`, `too-recent`, `undated`,
`no-face`. Metadata can be forged and is easily lost: a guard finds what is honest about itself, no more.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from imaginet_build.imagefiles.c2pa import Claims
from imaginet_build.imagefiles.provenance import Provenance, day_of
from imaginet_build.records import Refusal
from imaginet_build.rules import Guard

REASONS = frozenset(
    {"ai-metadata", "ai-software", "ai-text", "ai-c2pa", "ai-watermark", "too-recent", "undated", "no-face", "nsfw"}
)
"""What a guard refuses an image for: decisions, not failures."""

AI_SOURCE_TYPES = frozenset(
    {
        "trainedalgorithmicmedia", "compositewithtrainedalgorithmicmedia", "algorithmicmedia", "compositesynthetic",
        "trainedalgorithmicdata",
    }
)  # fmt: skip
"""IPTC digital source types that no camera and no painter makes (cv.iptc.org/newscodes/digitalsourcetype), and C2PA's own."""

_NAMES = (
    r"midjourney|dall[\W_]{0,2}e(?![a-z])|stable[\W_]?diffusion|stability[\W_]?ai|dreamstudio|novelai|invoke[\W_]?ai"
    r"|comfy[\W_]?ui|automatic1111|sd[\W_]?webui|fooocus|swarmui|draw things|diffusionbee|mochi diffusion|easy diffusion"
    r"|adobe[\W_]?firefly|firefly[\W_](?:image|vector|video)|grok[\W_]imag(?:e|ine)|openai|chatgpt|gpt-?4o"
    r"|gpt[\W_]image|(?:made|created|generated|edited) with (?:google )?ai"
    r"|google (?:c2pa core )?generator|(?:google )?imagen ?[0-9]|google gemini|gemini[\W_]?[0-9]|imagefx|nano[\W_]?banana"
    r"|bing image creator|microsoft[\W_]designer|image creator from (?:microsoft )?designer|microsoft[\W_]responsible[\W_]ai"
    r"|leonardo\.ai|ideogram[\W_]?(?:ai|[0-9])|flux\.?[12]|black forest labs|runwayml|runway[\W_]gen|nightcafe"
    r"|playground[\W_]ai"
    r"|recraft[\W_]?(?:ai|v[0-9])|meta[\W_]ai|imagined with ai|ai[\W_]generated|sdxl|seedream|qwen-image|kling[\W_]?ai|bfl\.ai"
    r"|craiyon|starryai|artbreeder|deepai|stylegan|this ?person ?does ?not ?exist"
)
_WORDS = r"firefly|gemini|ideogram|runway|recraft|kling|grok|leonardo[\W_]?ai"

GENERATORS = re.compile(rf"(?<![a-z])(?:{_NAMES})(?![a-z])", re.IGNORECASE)
"""Names of generators and of programs that do nothing but draw with them, where a program or a device names itself."""

_BEFORE = r"(?:copyright|\(c\)|(?:ai )?(?:made|created|generated|drawn) (?:by|with|using|in)|by|[12][0-9]{3}|google|xai|\W)*"
_AFTER = r"(?>v?[0-9][\w.]*|xl\b|inc\b|by (?:openai|google|adobe|xai|meta)\b|\W)*+"
"""What may stand beside a name without saying anything more: rights, years, versions, the company. No text can be split into
these in two ways, so that a long one is judged as fast as it is read."""

CALLED = re.compile(rf"{_BEFORE}(?:{_WORDS}){_AFTER}", re.IGNORECASE)
"""Names that are ordinary words and names of people too: a program's only where they are all that its field says."""

SIGNED = re.compile(rf"{_BEFORE}(?:{_NAMES}){_AFTER}", re.IGNORECASE)
"""What a generator signs with as artist or holder of rights: its name and nothing else, for people have names too."""

_SETTINGS = re.compile(r"\bSteps: ?\d+.{0,400}\b(?:Sampler|CFG scale|Seed): ?\S", re.DOTALL)
_MIDJOURNEY = re.compile(r"\bJob ID: [0-9a-f]{8}-|--(?:v|niji|ar|stylize|chaos) [\d.:]+")
_KEYS = frozenset(
    {
        "parameters", "prompt", "workflow", "sd-metadata", "dream", "invokeai_metadata", "invokeai_graph", "invokeai_workflow",
        "fooocus_scheme", "sui_image_params", "generation_data", "prompt_json", "drawthings", "aigc", "negative_prompt",
    }
)  # fmt: skip
"""Keywords of PNG texts that image generators write their settings under."""


@dataclass(frozen=True, slots=True)
class Dates:
    """What is known of an image's age besides its own EXIF: when it was uploaded, and when its source came out."""

    uploaded: datetime.date | None = None
    released: datetime.date | None = None


def judge(said: Provenance, guard: Guard, dates: Dates) -> Refusal | None:
    """Why an image may not count as real, by what it says of itself; None where nothing speaks against it.

    An image is old enough where any of its dates (taken, uploaded, its source's release) lies before `taken_before`: each alone
    shows that it existed.
    """
    if guard.ai_metadata and (found := next(_marks(said), None)):
        return found
    return _dated(said, guard, dates) if guard.taken_before else None


def dates_of(date: str | None, released: datetime.date | None) -> Dates:
    """The dates a source states, its own words parsed."""
    return Dates(day_of(date) if date else None, released)


def _dated(said: Provenance, guard: Guard, dates: Dates) -> Refusal | None:
    limit = guard.taken_before
    assert limit is not None
    known = {"taken": said.taken(), "uploaded": dates.uploaded, "its source released": dates.released}
    stated = {word: day for word, day in known.items() if day is not None}
    if any(day < limit for day in stated.values()):
        return None
    if stated:
        days = ", ".join(f"{word} {day}" for word, day in stated.items())
        return Refusal("too-recent", f"{days}; asked for before {limit}, when few images were generated")
    if guard.undated == "reject":
        return Refusal("undated", f"no capture date, no upload date; asked for before {limit}")
    return None


# --- marks -------------------------------------------------------------------------------------------------------------


def _marks(said: Provenance) -> Iterator[Refusal]:
    for place, text in said.of("source-type"):
        word = text.rstrip("/").rpartition("/")[2]
        if word.lower() in AI_SOURCE_TYPES:
            yield Refusal("ai-metadata", f"its {place} says DigitalSourceType {word[:60]}")
    for place, text in said.of("ai-system", "ai-prompt"):
        yield Refusal("ai-metadata", f"its {place} names an AI system or prompt: {text[:100]!r}")
    if said.claims is not None:
        yield from _claimed(said.claims)
    for name in ("software", "credit", "make", "model", "artist", "copyright"):
        for place, text in said.of(name):
            if match := named(name, text):
                yield Refusal("ai-software", f"its {place} names {match!r}: {text[:100]!r}")
    for place, text in said.of("comment", "description"):
        if _is_settings(text):
            yield Refusal("ai-text", f"its {place} holds a generator's settings: {text[:100]!r}")
    yield from _texts(said)


def named(name: str, text: str) -> str | None:
    """The generator that a field of this name gives away: programs and devices by their products, people by nothing less than
    a generator's whole name."""
    if name in ("artist", "author", "copyright", "title"):
        found = SIGNED.fullmatch(text)
    elif name in ("software", "source", "credit", "make", "model"):
        found = GENERATORS.search(text) or (CALLED.fullmatch(text) if name in ("software", "source", "credit") else None)
    else:
        found = None
    return found[0].strip() if found else None


def _claimed(claims: Claims) -> Iterator[Refusal]:
    for word in claims.source_types:
        if word.lower() in AI_SOURCE_TYPES:
            makers = ", ".join(claims.generators[:3])
            yield Refusal("ai-c2pa", f"its C2PA manifest says {word}" + (f", by {makers}" if makers else ""))
    for name in claims.generators:
        if named("software", name):
            yield Refusal("ai-c2pa", f"its C2PA manifest was claimed by {name!r}")


def _texts(said: Provenance) -> Iterator[Refusal]:
    """The texts of a PNG by their keywords."""
    for _, name, text in said.said:
        if not name.startswith("key:"):
            continue
        key = name.removeprefix("key:")
        if key.lower() in _KEYS and (_is_settings(text) or text.lstrip()[:1] in "{["):
            yield Refusal("ai-text", f"its text {key!r} holds a generator's settings: {text[:100]!r}")
        elif match := named(key.lower(), text):
            yield Refusal("ai-software", f"its text {key!r} names {match!r}: {text[:100]!r}")
        elif key.lower() in ("comment", "description", "usercomment") and _is_settings(text):
            yield Refusal("ai-text", f"its text {key!r} holds a generator's settings: {text[:100]!r}")


def _is_settings(text: str) -> bool:
    """Whether a text is what AUTOMATIC1111, Midjourney, NovelAI, InvokeAI or ComfyUI write down of a drawing."""
    if _SETTINGS.search(text[:20_000]) or _MIDJOURNEY.search(text[:20_000]):
        return True
    if not text.lstrip().startswith("{"):
        return False
    try:
        keys = set(json.loads(text)) if len(text) < 100_000 else set()
    except (ValueError, RecursionError):
        return False
    words = {str(key).lower() for key in keys}
    return (
        "class_type" in text or len(words & {"steps", "sampler", "seed", "cfg_scale", "cfgscale", "scale", "uc", "prompt"}) >= 3
    )
