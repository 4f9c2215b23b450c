"""How long a command takes before it does anything: `--help` beside the bare interpreter.

Prints JSON rows {name, ours, peer, ratio, unit}. The promise is 0.3 s for `--help` on a quiet machine.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

ROUNDS = 15


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    ours, peer = [], []
    for _ in range(ROUNDS):
        ours.append(seconds(["-m", "imaginet_build", "--help"]))
        peer.append(seconds(["-c", "pass"]))
    ratio = statistics.median(a / b for a, b in zip(ours, peer, strict=True))
    row = {
        "name": "start-up of --help beside `python -c pass`",
        "ours": statistics.median(ours),
        "peer": statistics.median(peer),
    }
    print(json.dumps([{**row, "ratio": ratio, "unit": "seconds, less is better"}]))


if __name__ == "__main__":
    main()
