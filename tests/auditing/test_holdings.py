"""What a person points at is read image by image, and a shard that cannot be is named."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imaginet_build.auditing import holdings
from imaginet_build.errors import BuildError


def test_a_shard_whose_names_are_no_text_is_named_and_nothing_crashes(tmp_path: Path) -> None:
    names = pa.array([b"one", b"tw\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"image": [b"1", b"2"], "id": names}), tmp_path / "a.parquet")
    with pytest.raises(BuildError, match=r"a\.parquet cannot be read \(.*utf-8.*\): fetch it again"):
        list(holdings.of(tmp_path / "a.parquet").items)
