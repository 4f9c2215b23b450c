"""Starts N workers that leave their process ids in FOLDER and are busy for a minute: `python orphan_driver.py FOLDER N`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from imaginet_build import engine


def busy(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)


def busy_worker() -> object:
    return busy


if __name__ == "__main__":
    folder, count = sys.argv[1], int(sys.argv[2])
    for _ in engine.run(busy_worker, [folder] * count, engine.Pool(workers=count)):
        pass
