"""Faces are found where there are faces, and the missing package is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pictures import picture
from PIL import Image

from imaginet_build import images
from imaginet_build.collecting import regions
from imaginet_build.errors import MissingExtra

needs_network = pytest.mark.skipif(regions.network() is None, reason="nudenet is not installed (extra: guards)")


@needs_network
def test_faces_are_seen_in_portraits_and_not_in_patches(shared: Path) -> None:
    """Every tenth portrait; of all 300 the network sees 293, of 400 generated ones all."""
    portraits = sorted((shared / "data" / "real" / "faces").rglob("*.jpg"))[::10]
    seen = [regions.look(images.decode(path.read_bytes())) for path in portraits]
    assert len(seen) == 30
    assert sum(s.face >= regions.FACE_SCORE for s in seen) >= 28
    assert all(0 < s.share <= 1 for s in seen if s.face >= regions.FACE_SCORE)
    patches = [regions.look(picture(number, 200, 150)) for number in range(6)]
    assert all(s.face < regions.FACE_SCORE and s.exposed < 0.25 for s in patches)


@needs_network
@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (320, 320), (31, 77)])
def test_any_shape_can_be_looked_at_and_gives_the_same_scores_again(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (90, 120, 30))
    assert regions.look(image) == regions.look(image)


@needs_network
def test_the_package_itself_and_opencv_stay_out(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom PIL import Image\nfrom imaginet_build.collecting import regions\n"
        "regions.look(Image.new('RGB', (64, 64)))\n"
        "print(sorted({'nudenet', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]"


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "PACKAGE", "no_such_package_here")
    regions._session.cache_clear()
    assert regions.network() is None
    with pytest.raises(MissingExtra, match=r"pip install 'imaginet-build\[guards\]'"):
        regions.look(Image.new("RGB", (8, 8)))
