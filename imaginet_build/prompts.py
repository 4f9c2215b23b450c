"""What to ask generators for: prompt sets expanded by seed alone, prompt lists, and the rules both must keep.

A set, `prompts/<name>.toml`, has templates whose `{slots}` are filled from word lists; words may hold slots themselves. Slots
named in `balanced` are not drawn but dealt: every combination of their words comes equally often. Those named in `even` are
dealt each for itself: every one of their words comes equally often.

`prompt_rules` says which prompts are near-identical and `people` which name a person; neither kind is drawn.
"""

from __future__ import annotations

import bisect
import itertools
import json
import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from imaginet_build import cards, toml
from imaginet_build.errors import UsageError, suggest
from imaginet_build.people import people_rule
from imaginet_build.prompt_rules import Twins, screen
from imaginet_build.records import Prompt, make_id, random_of

SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in ("id", "text", "negative", "category")])
"""A prompt manifest."""

_BLOCK = 1024  # prompts whose random numbers are drawn together; part of what a seed means
_ATTEMPTS = 64
_SLOT = re.compile(r"\{(\w+)\}")
_GLUED = re.compile(r"\w\{|\}[\w{]")


def make(text: str, negative: str, category: str) -> Prompt:
    """A prompt; its id is a hash of the three."""
    return Prompt(id=make_id(text, negative, category), text=text, negative=negative, category=category)


# --- sets --------------------------------------------------------------------------------------------------------------


class _Template(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    text: str
    weight: float = Field(default=1, gt=0)


class PromptSet(BaseModel):
    """One `prompts/<name>.toml`. `negative` has a `default` and may have one for each family."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    category: str
    template: Annotated[list[_Template], Field(min_length=1)]
    words: dict[str, Annotated[list[str], Field(min_length=1)]]
    negative: dict[str, str] = Field(default_factory=dict)
    balanced: list[str] = Field(default_factory=list)
    even: list[str] = Field(default_factory=list)

    @property
    def dealt(self) -> list[str]:
        """The slots whose words come equally often."""
        return [*self.balanced, *self.even]


def load(source: str | Path) -> PromptSet:
    """A prompt set by name (`photos`) or file. Raises `UsageError` naming every fault of it."""
    path = _locate(source)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        found = PromptSet.model_validate(raw)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read as TOML: {error}") from None
    except ValidationError as error:
        raise cards.faulty(path, toml.describe(error, PromptSet, raw)) from None
    faults = [
        f"{where}: no list '{slot}' under [words]{suggest(slot, found.words)}"
        for where, text in [
            *((f"template.{i}", one.text) for i, one in enumerate(found.template)),
            *((f"words.{name}", word) for name, words in found.words.items() for word in words),
            *(("balanced", f"{{{name}}}") for name in found.balanced),
            *(("even", f"{{{name}}}") for name in found.even),
        ]
        for slot in _SLOT.findall(text)
        if slot not in found.words
    ]
    if not faults:
        faults = [f"words.{name}: leads back to itself" for name in found.words if _reaches(found.words, name, name, set())]
    if not faults:
        faults += [f"{name}: dealt twice" for name, count in Counter(found.dealt).items() if count > 1]
        faults += [
            f"template.{i}: has no {{{name}}}, whose words are to come equally often"
            for i, one in enumerate(found.template)
            for name in found.dealt
            if f"{{{name}}}" not in one.text
        ]
    if faults:
        raise cards.faulty(path, list(dict.fromkeys(faults)))
    return found


def _locate(source: str | Path) -> Path:
    known = cards.files("prompts")
    if str(source) in known:
        return known[str(source)]
    if Path(source).is_file():
        return Path(source)
    raise UsageError(f"no prompt set '{source}' in prompts/{suggest(str(source), known) or '.'} There are: {', '.join(known)}")


def _reaches(words: Mapping[str, Sequence[str]], start: str, goal: str, seen: set[str]) -> bool:
    for slot in {s for word in words[start] for s in _SLOT.findall(word)} - seen:
        seen.add(slot)
        if slot == goal or _reaches(words, slot, goal, seen):
            return True
    return False


def expand(source: str | Path, n: int, seed: int, family: str | None = None) -> list[Prompt]:
    """`n` prompts of a set, decided by `seed` alone; the first k of them are the same whatever `n`.

    `family` chooses the negative prompt. Near-identical prompts and people's names are drawn again. Raises `UsageError` when
    the set cannot yield `n` distinct prompts.
    """
    found = load(source)
    name = f"{Path(source).stem}/{seed}"
    negative = found.negative.get(family or "default", found.negative.get("default", ""))
    draw = _Drawing(found)
    seen, people = Twins(), people_rule()
    # Of most sets no word is part of a listed name; then nothing that they make up can hold one.
    fragments = [*itertools.chain(*found.words.values()), *(one.text for one in found.template)]
    apart = not any(_GLUED.search(fragment) for fragment in fragments)
    named = people.capitalised if apart and people.clears(_SLOT.sub(" ", fragment) for fragment in fragments) else people
    prompts: list[Prompt] = []
    for i in range(n):
        if i % _BLOCK == 0:
            block = random_of(f"{name}/{i // _BLOCK}", "prompts").random((_BLOCK, draw.width)).tolist()
        dealt = draw.deal(name, i)
        for attempt in range(_ATTEMPTS):
            numbers = (
                random_of(f"{name}/{i}/{attempt}", "prompts").random(draw.width).tolist() if attempt else block[i % _BLOCK]
            )
            text = draw.text(numbers, dealt)
            if not named(text) and seen.add(text):
                prompts.append(make(text, negative, found.category))
                break
        else:
            raise UsageError(f"prompt set '{source}' yields only about {i} distinct prompts, not {n}: give it more words")
    return prompts


class _Drawing:
    """A set made ready for drawing: texts cut into literals and slots, and how many random numbers one prompt may use."""

    def __init__(self, found: PromptSet) -> None:
        self.words = {name: [_SLOT.split(word) for word in words] for name, words in found.words.items()}
        self.templates = [_SLOT.split(one.text) for one in found.template]
        weights = np.array([one.weight for one in found.template], dtype=np.float64)
        self.shares = (np.cumsum(weights) / weights.sum()).tolist()[:-1]
        # What is dealt at once, and every hand of it.
        self.deals = [found.balanced] if found.balanced else []
        self.deals += [[name] for name in found.even]
        self.hands = [list(itertools.product(*(range(len(found.words[name])) for name in names))) for names in self.deals]
        self.width = 1 + max(map(self._numbers, self.templates))
        self.orders: list[tuple[int, list[dict[str, int]]]] = [(-1, [])] * len(self.deals)

    def _numbers(self, parts: Sequence[str]) -> int:
        return sum(1 + max(map(self._numbers, self.words[slot])) for slot in parts[1::2])

    def deal(self, name: str, i: int) -> dict[str, int]:
        """The dealt slots' words for prompt `i`: all hands once, shuffled, then all again."""
        dealt: dict[str, int] = {}
        for number, (slots, hands) in enumerate(zip(self.deals, self.hands, strict=True)):
            turn, place = divmod(i, len(hands))
            if self.orders[number][0] != turn:
                shuffled = random_of(f"{name}/{'+'.join(slots)}/{turn}", "prompts-dealt").permutation(len(hands)).tolist()
                self.orders[number] = (turn, [dict(zip(slots, hands[hand], strict=True)) for hand in shuffled])
            dealt |= self.orders[number][1][place]
        return dealt

    def text(self, numbers: Sequence[float], dealt: Mapping[str, int]) -> str:
        """One prompt from random numbers in [0, 1); each slot takes the next, dealt slots take none."""
        rest = iter(numbers)
        template = self.templates[bisect.bisect_right(self.shares, next(rest))]
        return tidy(self._fill(template, rest, dealt))

    def _fill(self, parts: Sequence[str], rest: Iterator[float], dealt: Mapping[str, int]) -> str:
        text = parts[0]
        for slot, literal in zip(parts[1::2], parts[2::2], strict=True):
            choices = self.words[slot]
            chosen = choices[dealt[slot] if slot in dealt else int(next(rest) * len(choices))]
            text += (chosen[0] if len(chosen) == 1 else self._fill(chosen, rest, dealt)) + literal
        return text


_ARTICLE = re.compile(r"\b([Aa]) (?=[aeioAEIO]|u(?!ni|se|ku|ti|ro)|hour|heir|honest)(?!one\b|eu)")
_GAPS = re.compile(r"\s*,(?:\s*,)+|\s+,")
_SPACES = re.compile(r"\s{2,}")


def tidy(text: str) -> str:
    """`a orange , , cat` as `an orange, cat`: articles before vowels, and no doubled commas or spaces."""
    if ", ," in text or " ," in text or ",," in text or "  " in text:
        text = _SPACES.sub(" ", _GAPS.sub(",", text))
    return _ARTICLE.sub(r"\1n ", text).strip(" ,")


# --- lists -------------------------------------------------------------------------------------------------------------

_COLUMNS = {
    "text": ("text", "prompt", "caption"),
    "negative": ("negative", "negative_prompt"),
    "category": ("category", "content_type"),
}


def is_list(source: str | Path) -> bool:
    """Whether `source` names a list of prompts and not a set of templates."""
    return str(source) not in cards.files("prompts") and Path(source).suffix != ".toml"


def read(path: str | Path, category: str | None = None) -> list[Prompt]:
    """Every prompt of a JSONL, CSV, Parquet or plain text list (one a line), or the captions of real images, as they stand:
    `screen` applies the rules.

    Columns: text (or prompt, caption), negative (or negative_prompt), category (or content_type); `category` where a row has
    none. Captions: a JSON file as COCO has it, of which the first caption of each image is taken, or any of these lists. Raises
    `UsageError` for what cannot be read and for a list without a category.
    """
    path = Path(path)
    try:
        rows = _rows(path)
    except (OSError, ValueError) as error:  # broken JSON, CSV, Parquet and UTF-8 are all ValueErrors
        raise UsageError(f"{path} cannot be read as a list of prompts: {error}") from None
    prompts: list[Prompt] = []
    for number, row in enumerate(rows, start=1):
        value = {key: next((str(row[c]) for c in names if row.get(c) is not None), None) for key, names in _COLUMNS.items()}
        if value["text"] is None:
            if any(name in row for name in _COLUMNS["text"]):
                raise UsageError(f"{path}: row {number} holds no text")
            columns = ", ".join(map(str, row))
            raise UsageError(f"{path}: row {number} has no column text, prompt or caption; it has {columns or 'none'}")
        where = value["category"] or category
        if not where:
            raise UsageError(f"{path}: row {number} names no category; give one: --category photos")
        prompts.append(make(value["text"].strip(), value["negative"] or "", where))
    return prompts


def _rows(path: Path) -> list[dict[str, Any]]:
    kind = path.suffix.lower()
    if kind == ".parquet":
        import pyarrow.parquet as pq

        names = [n for n in pq.read_schema(path).names if n in itertools.chain(*_COLUMNS.values())]
        rows: list[dict[str, Any]] = pq.read_table(path, columns=names).to_pylist()
    elif kind == ".csv":
        import pandas as pd

        rows = pd.read_csv(path, dtype=str, keep_default_na=False).to_dict(orient="records")  # type: ignore[assignment]
    elif kind in (".jsonl", ".ndjson"):
        rows = [json.loads(line) for line in _lines(path)]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("each line must be one JSON object")
    elif kind == ".json":
        rows = _captions(json.loads(path.read_text(encoding="utf-8-sig")))
    elif kind == ".txt":
        rows = [{"text": line} for line in _lines(path)]
    else:
        raise ValueError(f"'{kind}' is none of .jsonl, .csv, .parquet, .txt, .json (captions)")
    return rows


def _captions(document: object) -> list[dict[str, Any]]:
    """The first caption of each image, in the order of the file (COCO's `annotations`)."""
    found = document.get("annotations") if isinstance(document, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, dict) and "caption" in one for one in found):
        raise ValueError("it is no file of captions: there is no list 'annotations' whose entries have a 'caption'")
    first: dict[object, dict[str, Any]] = {}
    for number, one in enumerate(found):
        first.setdefault(str(one.get("image_id", f"entry {number}")), {"caption": one["caption"]})
    return list(first.values())


def _lines(path: Path) -> list[str]:
    # not splitlines(): a prompt may hold U+2028 and its like, which end no line of a JSONL file
    return [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]


def write(prompts: Sequence[Prompt], path: str | Path) -> Path:
    """Write a prompt manifest as JSONL or Parquet, by the file's suffix; the same prompts give the same bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    rows = [asdict(prompt) for prompt in prompts]
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), beside)
    elif path.suffix.lower() in (".jsonl", ".ndjson"):
        beside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        raise UsageError(f"{path}: a prompt manifest is written as .jsonl or .parquet")
    beside.replace(path)
    return path


def _any_of(words: Mapping[str, Sequence[str]], slot: str, named: bool = False) -> str:
    """A pattern of a slot's words, the longest first, in groups `w<place in the list>` where they are to be told apart."""
    patterns = []
    for number, word in sorted(enumerate(words[slot]), key=lambda one: -len(one[1])):
        parts = _SLOT.split(word)
        parts[::2] = map(re.escape, parts[::2])
        parts[1::2] = [f"(?:{_any_of(words, name)})" for name in parts[1::2]]
        patterns.append(f"(?P<w{number}>{''.join(parts)})" if named else "".join(parts))
    return "|".join(patterns)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a list of prompts holds. `balance` counts the dealt words of the set it came from: slot -> word -> prompts."""

    count: int
    categories: dict[str, int]
    duplicates: int
    named: int
    words_mean: float
    words_max: int
    balance: dict[str, dict[str, int]] = field(default_factory=dict)
    sample: list[str] = field(default_factory=list)


def summary(prompts: Sequence[Prompt], source: str | Path | None = None, show: int = 8) -> Summary:
    """Counts, near-duplicates, names, lengths in words, and a sample of `show` texts that does not depend on order."""
    refused = Counter(refusal.reason for _, refusal in screen(prompts).refused)
    lengths = [len(prompt.text.split()) for prompt in prompts]
    balance: dict[str, dict[str, int]] = {}
    if source is not None:
        found = load(source)
        for slot in found.dealt:
            whole = re.compile(rf"(?<!\w)(?:{_any_of(found.words, slot, named=True)})(?!\w)")
            seen = Counter(match.lastgroup for prompt in prompts if (match := whole.search(prompt.text)))
            balance[slot] = {word: seen[f"w{number}"] for number, word in enumerate(found.words[slot])}
    return Summary(
        count=len(prompts),
        categories=dict(sorted(Counter(prompt.category for prompt in prompts).items())),
        duplicates=refused["near-identical"],
        named=refused["named-person"],
        words_mean=float(np.mean(lengths)) if lengths else 0.0,
        words_max=max(lengths, default=0),
        balance=balance,
        sample=[prompt.text for prompt in sorted(prompts, key=lambda p: make_id("sample", p.id))[:show]],
    )
