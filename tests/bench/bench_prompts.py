"""Expanding prompt sets: 100,000 prompts of each, beside the promised five seconds, and what the rules cost of it.

Prints JSON rows {name, ours, peer, ratio, unit}; `ratio` above 1: ours is better. CPU seconds of a process of its own for each
set. The peer of the first rows is the bound; of the others, a loop that fills the same templates with `random.choice` and keeps
no rule: near-identical prompts and names pass, nothing is dealt evenly, and exact duplicates alone are dropped.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

SETS = ("photos", "paintings", "anime", "faces", "uncategorized")
COUNT = 100_000

OURS = """
import sys, time
from imaginet_build import prompts
name, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
prompts.expand(name, 10, seed)
start = time.process_time()
found = prompts.expand(name, count, seed)
used = time.process_time() - start
assert len({prompt.text for prompt in found}) == count
print(used)
"""

PLAIN = """
import random, re, sys, time
from imaginet_build import prompts
name, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
found = prompts.load(name)
start = time.process_time()
chance, texts = random.Random(seed), set()
templates, weights = [one.text for one in found.template], [one.weight for one in found.template]
while len(texts) < count:
    text = chance.choices(templates, weights)[0]
    while "{" in text:
        text = re.sub(r"{(\\w+)}", lambda slot: chance.choice(found.words[slot[1]]), text)
    texts.add(text)
print(time.process_time() - start)
"""


def seconds(code: str, name: str, seed: int) -> float:
    """CPU seconds that one process says it took."""
    run = [sys.executable, "-c", code, name, str(COUNT), str(seed)]
    return float(subprocess.run(run, stdout=subprocess.PIPE, text=True, check=True).stdout)


def main() -> None:
    rows: list[dict[str, object]] = []
    for name in SETS:
        pairs = [(seconds(OURS, name, seed), seconds(PLAIN, name, seed)) for seed in range(3)]
        ours, plain = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
        ratio = statistics.median(theirs / mine for mine, theirs in pairs)
        what = f"{COUNT:,} prompts of {name}"
        rows.append(
            {"name": f"{what}, beside the bound", "ours": ours, "peer": 5.0, "ratio": 5.0 / ours, "unit": "CPU seconds"}
        )
        rows.append(
            {"name": f"{what}, beside random.choice", "ours": ours, "peer": plain, "ratio": ratio, "unit": "CPU seconds"}
        )
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
