"""Images that were paid for and lie in no part yet: one file an order, there as a whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from imaginet_build.paying.journal import synced


class Answers:
    """The images in `folder` (None: none are kept). A file is one line of JSON, what came beside the image, and its bytes."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def keep(self, order: str, image: bytes, about: Mapping[str, Any]) -> None:
        """Write an image to the disk."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        beside = self.folder / f".{order}.{uuid4().hex}"
        try:
            with beside.open("wb") as file:
                file.write(json.dumps(dict(about)).encode() + b"\n" + image)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.folder / order)
            synced(self.folder)
        finally:
            beside.unlink(missing_ok=True)

    def get(self, order: str) -> tuple[bytes, dict[str, Any]] | None:
        """An order's image and what came beside it, if it lies here. A file that somebody damaged is none."""
        if self.folder is None:
            return None
        try:
            head, _, image = (self.folder / order).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        try:
            about = json.loads(head)
        except ValueError:
            return None
        return (image, about) if isinstance(about, dict) and about.keys() >= {"usage", "usd"} and image else None

    def clear(self, orders: Collection[str]) -> None:
        """Remove the images of these orders."""
        if self.folder is None:
            return
        for order in orders:
            (self.folder / order).unlink(missing_ok=True)

    def names(self) -> set[str]:
        """The orders whose images lie here. What a killed process left half written is removed."""
        if self.folder is None or not self.folder.is_dir():
            return set()
        names = {path.name for path in self.folder.iterdir()}
        for name in names:
            if name.startswith("."):
                (self.folder / name).unlink(missing_ok=True)
        return {name for name in names if not name.startswith(".")}
