"""`make bench`: every `bench_*.py` beside its peer, as one table on stdout and as JSON in `bench.json`.

Each file is a process of its own, so that one's imports and memory do not weigh on another's figures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    rows: list[dict[str, object]] = []
    for path in sorted(HERE.glob("bench_*.py")):
        print(f"{path.stem} …", file=sys.stderr)
        done = subprocess.run([sys.executable, path], stdout=subprocess.PIPE, text=True, check=True)
        rows += json.loads(done.stdout)
    print(f"{'what':<58} {'ours':>12} {'peer':>12} {'ratio':>8}  unit")
    for row in rows:
        ours, peer, ratio = (
            f"{v:.4g}" if isinstance(v := row.get(key), int | float) else "-" for key in ("ours", "peer", "ratio")
        )
        print(f"{row['name']!s:<58} {ours:>12} {peer:>12} {ratio:>8}  {row.get('unit', '')}")
    Path("bench.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
