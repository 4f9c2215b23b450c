"""A trained detector as a file for ONNX Runtime or OpenVINO, in fp32 or int8: every candidate is measured beside torch in one
run, and the fastest that keeps its promises (`promises`) is written. The folder is a checkpoint for `detect` and `evaluate`.

int8 needs real images: a few groups of the calibration split give the ranges, its other groups show what was lost.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imaginet_build.baseline import certainty, graphs, promises
from imaginet_build.baseline.data import Rows, splits
from imaginet_build.baseline.graphs import Crops
from imaginet_build.baseline.promises import Measured
from imaginet_build.detectors import onnx, openvino, selfcon
from imaginet_build.detectors.checkpoint import CONFIG, SMALLEST, Floats, grid, read_config
from imaginet_build.detectors.exported import Exported as Detector
from imaginet_build.errors import BadImage, BuildError, MissingExtra, UsageError
from imaginet_build.records import Item, random_of

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

RUNTIMES: dict[str, tuple[str, str, Callable[..., Detector]]] = {
    "onnxruntime": (onnx.ADAPTER, "onnx", onnx.Onnx),
    "openvino": (openvino.ADAPTER, "openvino", openvino.OpenVino),
}
"""Adapter, card, and the detector that runs what was exported."""
PRECISIONS = ("fp32", "int8")
ROUNDS = 5
MOST = 400
"""Images of the calibration split, both classes alike, that show what was lost."""
_RANGES = 32
_FILES = (onnx.WEIGHTS, openvino.WEIGHTS, openvino.TENSORS)


@dataclass(frozen=True, slots=True)
class Exported:
    """`folder` holds `chosen`; `table` has every candidate, `untried` says which were not and why. `images`: how many showed
    what int8 lost."""

    folder: Path
    chosen: Measured
    table: tuple[Measured, ...]
    untried: tuple[str, ...]
    images: int

    def as_json(self) -> dict[str, Any]:
        """The document that `baseline export --json` prints."""
        return asdict(self) | {"folder": str(self.folder)}


def export(
    checkpoint: Path,
    out: Path,
    data: Path | None = None,
    *,
    precision: str | None = None,
    runtime: str | None = None,
    rounds: int = ROUNDS,
    most: int = MOST,
) -> Exported:
    """Write the best export of a SelfCon checkpoint to `out`: weights and config.json.

    `data`: the release whose calibration split calibrates int8 and shows what it loses; without one there is fp32 alone.
    `precision` (fp32, int8) and `runtime` (onnxruntime, openvino) leave others out. Raises `BuildError`, with the table, where
    no candidate keeps its promises; `UsageError` where `out` holds something else; `MissingExtra` without onnx.
    """
    graphs.import_onnx()
    _clear(checkpoint, out)
    config, network = selfcon.load(checkpoint)
    rows = splits(data).get("calibration") if data is not None else None
    if precision == "int8" and rows is None:
        raise UsageError("int8 is calibrated and judged on a release's calibration split, and there is none; add --on RELEASE")
    with tempfile.TemporaryDirectory() as place:
        bench = _Bench(config, network, Path(place), _Looked(rows, config["crop"], most) if rows is not None else None, rounds)
        table = bench.fp32(runtime)
        fp32 = [one for one in table if one.precision == "fp32"]
        if rows is not None and precision != "fp32":
            table += bench.int8(runtime, fp32)
        if rows is None:
            bench.untried.append("int8: there is no calibration split; add --on RELEASE")
        kept = [one for one in table if not one.broken and precision in (None, one.precision.partition("-")[0])]
        if not kept:
            raise BuildError(f"no export keeps its promises; nothing was written:\n{table_text(table, bench.untried)}")
        chosen = max(kept, key=lambda one: one.speed)
        folder = bench.folder(chosen.name)
        out.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            (out / name).unlink(missing_ok=True)
            if (folder / name).is_file():
                selfcon.replace(out / name, (folder / name).read_bytes())
        selfcon.replace(out / CONFIG, (folder / CONFIG).read_bytes())
    return Exported(out, chosen, tuple(table), tuple(bench.untried), bench.judged)


def table_text(table: Sequence[Measured], untried: Sequence[str], chosen: Measured | None = None) -> str:
    """The candidates as a person reads them, and which of their promises they break."""
    lines = [f"{'':<24} {'MB':>7} {'x torch':>8} {'logit':>9}  AUC lost (95 %)"]
    for one in table:
        loss = "-" if one.loss is None else f"{one.loss[0]:+.4f} ({one.loss[1]:+.4f} to {one.loss[2]:+.4f})"
        said = "; ".join(one.broken) or ("chosen" if one == chosen else "kept")
        lines.append(f"{one.name:<24} {one.nbytes / 1e6:>7.1f} {one.speed:>8.2f} {one.difference:>9.1e}  {loss}  {said}")
    return "\n".join([*lines, *(f"not tried: {why}" for why in untried)])


def _clear(checkpoint: Path, out: Path) -> None:
    """Refuse to write over anything but an earlier export."""
    if out.resolve() == checkpoint.resolve():
        raise UsageError(f"{out} is the checkpoint itself; name another folder with --out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        try:
            found = "export" in read_config(out)
        except UsageError:
            found = False
        if not found:
            raise UsageError(f"{out} holds something that is no earlier export; name another folder with --out")


class _Looked:
    """The calibration split: crops for the ranges, and the images that show what was lost. No group is in both."""

    def __init__(self, rows: Rows, crop: int, most: int) -> None:
        self.rows = rows
        usable = [i for i in range(len(rows)) if self._good(i)]
        order = [usable[k] for k in random_of(rows.title, "baseline/export").permutation(len(usable))]
        groups = list(dict.fromkeys(rows.group[i] for i in order))
        held = set(groups[: min(_RANGES, len(groups) // 4)])
        ranges = [i for i in order if rows.group[i] in held][:_RANGES]
        rest = [i for i in order if rows.group[i] not in held]
        self.judged = sorted(i for y in (0, 1) for i in [k for k in rest if rows.label[k] == y][: most // 2])
        # A crop or two of each, from its middle outwards: what is alike in an image need not be seen twice.
        crops = [grid(rows.image(i), crop, 3) for i in ranges or usable[:_RANGES]]
        middle = [c[len(c) // 2 :][:2] for c in crops if c.shape[2] == crop]
        self.crops: Crops = np.concatenate(middle) if middle else np.empty((0, 3, crop, crop), np.float32)
        self.label, self.group = rows.label[self.judged], [rows.group[i] for i in self.judged]

    def _good(self, row: int) -> bool:
        try:
            return min(self.rows.image(row).size) >= SMALLEST
        except BadImage as error:
            log.warning("%s of the calibration split is left out: %s", self.rows.ids[row], error)
            return False

    def items(self) -> Iterator[Item]:
        for i in self.judged:
            yield Item(self.rows.ids[i], b"", self.rows.image(i))


class _Bench:
    """One checkpoint's candidates, each a folder in `place`, measured as the detector that will run it."""

    def __init__(self, config: dict[str, Any], network: nn.Module, place: Path, looked: _Looked | None, rounds: int) -> None:
        self.config, self.network, self.place, self.looked, self.rounds = config, network, place, looked, rounds
        self.untried: list[str] = []
        self.judged = len(looked.judged) if looked else 0
        self.whole = place / "whole.onnx"
        graphs.fp32(network, self.whole, int(config["crop"]))
        self._exact: Floats | None = None

    def folder(self, name: str) -> Path:
        return self.place / name.replace(" ", "-")

    def fp32(self, runtime: str | None) -> list[Measured]:
        """Both runtimes, or one."""
        return self._measured("fp32", self.whole, runtime, [])

    def int8(self, runtime: str | None, fp32: list[Measured]) -> list[Measured]:
        """The same with eight bits; where that loses too much, also with the first layers in fp32."""
        assert self.looked is not None
        if not self.looked.crops.size:
            self.untried.append(f"int8: no image of the calibration split holds a crop of {self.config['crop']} pixels")
            return []
        found: list[Measured] = []
        for precision in ("int8", "int8-mixed"):
            path = self.place / f"{precision}.onnx"
            graphs.int8(self.whole, path, self.looked.crops, mixed=precision != "int8")
            found += self._measured(precision, path, runtime, fp32)
            if any(one.loss is None or one.loss[2] <= promises.AUC_LOSS for one in found):
                break
        return found

    def _measured(self, precision: str, graph: Path, runtime: str | None, fp32: list[Measured]) -> list[Measured]:
        built: list[tuple[str, Detector]] = []
        for name in RUNTIMES if runtime is None else (runtime,):
            try:
                built.append((name, self._build(name, precision, graph)))
            except MissingExtra as error:
                if runtime is not None:
                    raise
                self.untried.append(f"{name} {precision}: {error}")
        log.info("%s: measuring %s beside torch", precision, " and ".join(name for name, _ in built))
        speeds = promises.speeds(self._eager, [d.run for _, d in built], self.rounds)
        return [
            self._judged(name, precision, detector, speed, fp32)
            for (name, detector), speed in zip(built, speeds, strict=True)
        ]  # fmt: skip

    def _build(self, runtime: str, precision: str, graph: Path) -> Detector:
        """The candidate's folder, and the detector that reads it."""
        adapter, card, make = RUNTIMES[runtime]
        folder = self.folder(f"{runtime} {precision}")
        folder.mkdir(exist_ok=True)
        if runtime == "openvino":
            graphs.openvino(graph, folder / openvino.WEIGHTS)
        else:
            (folder / onnx.WEIGHTS).write_bytes(graph.read_bytes())
        said: dict[str, Any] = {"adapter": adapter, "card": card, "export": {"runtime": runtime, "precision": precision}}
        (folder / CONFIG).write_text(json.dumps(self.config | said, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return make(str(folder), threads=1)

    def _judged(self, runtime: str, precision: str, detector: Detector, speed: float, fp32: list[Measured]) -> Measured:
        nbytes = sum(path.stat().st_size for path in detector.file.parent.iterdir() if path.name in _FILES)
        apart = promises.difference(self._eager, detector.run, self._crops())
        loss, why = None, ""
        if precision != "fp32":
            loss, why = self._lost(detector)
        fastest = max((one.speed for one in fp32), default=0.0)
        faults = promises.broken(self.config["preset"], precision, apart, speed, fastest, loss, why)
        found = Measured(runtime, precision, nbytes, apart, round(speed, 2), loss, tuple(faults))
        self._remember(found)
        return found

    def _lost(self, detector: Detector) -> tuple[tuple[float, float, float] | None, str]:
        looked = self.looked
        assert looked is not None
        if reason := promises.too_few(looked.label, looked.group):
            return None, reason
        if self._exact is None:
            log.info("the AUC of %d images of the calibration split, in fp32 and int8", self.judged)
            # In fp32 on ONNX Runtime, which is held to torch and takes half the time.
            self._exact = self._build("onnxruntime", "fp32 exact", self.whole).logits(looked.items())[0]
        logits = detector.logits(looked.items())[0]
        # Eight bits move the logits a little: the probabilities are fitted anew on them.
        self._say(detector.file.parent, calibration=certainty.calibrated(looked.label, logits, looked.group).as_json())
        return promises.lost(looked.label, looked.group, self._exact, logits), ""

    def _remember(self, found: Measured) -> None:
        """What was measured goes with the weights."""
        said = asdict(found) | {"images": self.judged if found.loss else 0}
        self._say(self.folder(found.name), export={name: value for name, value in said.items() if name != "broken"})

    def _say(self, folder: Path, **values: Any) -> None:
        """Change some of a candidate's config.json."""
        config = read_config(folder) | values
        (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def _eager(self, crops: Crops) -> tuple[Any, Any]:
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                origin, named = self.network(torch.from_numpy(crops))
        finally:
            torch.set_num_threads(before)
        return origin.numpy(), named.numpy()

    def _crops(self) -> list[Crops]:
        """Batches of several sizes: real crops where there are any, else noise and flat grey."""
        crop = int(self.config["crop"])
        less = max(SMALLEST, crop // 2)
        if self.looked is not None and self.looked.crops.size:
            real = self.looked.crops[:8]
            return [real, real[:1], np.ascontiguousarray(real[:2, :, :less, :less])]
        noise = np.random.default_rng(0).integers(0, 256, (3, 3, crop, crop)).astype(np.float32)
        return [noise, noise[:1], np.ascontiguousarray(noise[:2, :, :less, :less]), np.full_like(noise, 127)]
