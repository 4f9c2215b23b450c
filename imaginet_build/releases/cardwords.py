"""Words that are not ours, made safe for the Markdown, YAML and BibTeX of a release's card."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping

_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Characters that are not seen but change what is: controls, direction marks, line ends of other alphabets."""


def cell(value: object) -> str:
    """Text inside a Markdown table or sentence: one line, no markup, no HTML, nothing unseen."""
    text = _seen(" ".join(str(value).split()))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\|`*_[]~$" else c for c in text)


def words(value: object) -> str:
    """Paragraphs of plain text: as `cell`, but empty lines part paragraphs, and no line begins a list, heading or rule."""
    paragraphs = [cell(part) for part in re.split(r"\n\s*\n", str(value).strip())]
    return "\n\n".join(re.sub(r"^(\d*)([-+#=.)])", r"\1\\\2", part) for part in paragraphs if part)


def fence(value: object, language: str = "") -> str:
    """A block of code that holds exactly these lines, whatever they are; what is unseen is shown as such."""
    lines = str(value).strip("\n").splitlines()
    text = "\n".join(re.sub(r"[^\S\t ]", " ", _seen(line)) for line in lines)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{text}\n{marks}"


def _seen(text: str) -> str:
    """Text in which every unseen character is shown as U+FFFD; a tab stays."""
    return "".join("\ufffd" if unicodedata.category(c) in _UNSEEN and c != "\t" else c for c in text)


def bibtex(value: object) -> str:
    """Text inside the braces of a BibTeX field: one line, no command and no brace of its own."""
    text = _seen(" ".join(str(value).split()))
    return re.sub(r"[\\{}$%&#_^~]", lambda m: f"<U+{ord(m[0]):04X}>" if m[0] in "\\{}^~" else f"\\{m[0]}", text)


def block(value: object) -> str:
    """Nested mappings and lists as YAML, one value a line, so that a line of the card holds one number."""
    return "\n".join(_block(value, ""))


def _block(value: object, pad: str) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            name = key if re.fullmatch("[a-z_]+", str(key)) else yaml(key)
            if isinstance(inner, (Mapping, list)) and inner:
                yield f"{pad}{name}:"
                yield from _block(inner, pad + "  ")
            else:
                yield f"{pad}{name}: {yaml(inner)}"
    elif isinstance(value, list) and value:
        for inner in value:
            first, *more = _block(inner, pad + "  ")
            yield from (f"{pad}- {first.lstrip(' ')}", *more)
    else:
        yield f"{pad}{yaml(value)}"


def yaml(value: object) -> str:
    """A value in YAML, as JSON on one line; what is unseen, or ends a line in YAML alone, is escaped. What JSON would write as
    a pair of surrogates stays as it is: YAML reads those as two characters."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(_escaped(c) if unicodedata.category(c) in _UNSEEN or c in "\xa0\ufffe\uffff" else c for c in text)


def _escaped(c: str) -> str:
    return f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"
