"""`detect`: how likely each image is synthetic, and which generator it looks like.

Without a checkpoint the small detector that ships answers, on onnxruntime alone; it says in every verdict that it is small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from imaginet_build.detecting.given import given
from imaginet_build.detecting.judge import Answer, Judge


def detect(
    paths: Sequence[Path | str],
    checkpoint: Path | None = None,
    progress: Callable[[int, int, int | None], None] = lambda *_: None,
    allow_loopback: Sequence[str] = (),
) -> list[Answer]:
    """One answer an image, in the order given; folders are walked for image files, sorted, and URLs fetched.

    An answer is `{"path", "p_synthetic", "verdict", "generator", "p_generator", "checkpoint", "note"}`: `verdict` is
    `synthetic`, `real` or `cannot tell`, `generator` the likeliest name and `p_generator` its probability given that the
    image is synthetic (both null unless the verdict is `synthetic`). What cannot be read is `{"path", "error"}`.
    `checkpoint`: a folder of `baseline train` or `baseline export`; None is the one that ships. `progress(done, failed, None)`.
    Raises `UsageError` for a path that does not exist, a folder without images, or a folder that is no checkpoint.
    """
    files = given(paths, allow_loopback)
    said: list[Answer] = []
    failed = 0
    for answer in Judge(checkpoint).answers(files):
        said.append(answer)
        failed += "error" in answer
        progress(len(said), failed, None)
    return said
