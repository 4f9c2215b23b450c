"""Types of fixtures that several detectors' tests share."""

from __future__ import annotations

import numpy as np

from imaginet_build.records import Item

Told = tuple[list[Item], np.ndarray, list[Item], np.ndarray]
"""Items and labels to learn from, items and labels to be judged."""
