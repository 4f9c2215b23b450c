"""`generate` beside a script that calls the same pipeline: the whole run, the first image, and memory over 10,000 images.

`python tests/bench/bench_generate.py` prints JSON rows {name, ours, peer, ratio, unit}; `ratio` above 1: ours is better. Both
are processes of their own on one thread of torch and draw from the same folder with the same settings, the same prompts, the
same batches and one generator an image. The bare script saves PNG files and nothing else. Ours is the command a user types:
orders and ids first, every image proved and measured, parts flushed to disk. Wall time: with two cores what is drawn is
encoded, measured and written beside the drawing, which on one core nothing can hide; that is the row of CPU seconds.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

Row = dict[str, object]
ROOT = Path(__file__).resolve().parents[2]
SIDE, BATCH, STEPS = 512, 4, 4

BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import tinypipelines as tiny
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
torch.manual_seed(1)
folder = Path(sys.argv[1])
words, size = tiny.clip_words(folder / "words")
StableDiffusionXLPipeline(
    vae=tiny.deep_vae(), text_encoder=tiny.clip_text(size), text_encoder_2=tiny.clip_text(size, 32),
    tokenizer=words, tokenizer_2=words, scheduler=EulerDiscreteScheduler(), add_watermarker=False,
    unet=tiny.unet(
        cross_attention_dim=64, addition_embed_type="text_time", addition_time_embed_dim=8, use_linear_projection=True,
        transformer_layers_per_block=(1, 1), projection_class_embeddings_input_dim=32 + 6 * 8,
    ),
).save_pretrained(folder / "model")
"""

BARE = """
import json, sys
model, prompts, out, side, batch, steps = *sys.argv[1:4], *map(int, sys.argv[4:7])
import torch
from diffusers import AutoPipelineForText2Image
torch.set_num_threads(1)
pipe = AutoPipelineForText2Image.from_pretrained(model, add_watermarker=False, dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
texts = json.load(open(prompts))
for start in range(0, len(texts), batch):
    some = texts[start:start + batch]
    noise = [torch.Generator("cpu").manual_seed(start + i) for i in range(len(some))]
    images = pipe(prompt=some, width=side, height=side, num_inference_steps=steps, generator=noise).images
    for i, image in enumerate(images):
        image.save(f"{out}/{start + i:06d}.png")
"""


def environment() -> dict[str, str]:
    """One thread a library, nothing from the network, nobody's progress bars."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return os.environ | one | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}


class Place:
    """A folder with the tiny SDXL, its card, a list of prompts and a recipe that asks for `count` images."""

    def __init__(self, root: Path) -> None:
        self.root = root
        run = [sys.executable, "-c", BUILD, root, ROOT / "tests" / "support"]
        subprocess.run(run, check=True, env=environment(), capture_output=True)
        (root / "manifests" / "generators").mkdir(parents=True)
        (root / "manifests" / "generators" / "bench-sdxl.toml").write_text(
            'adapter = "imaginet_build.generators.diffusion:Diffusion"\nlicence = "CC0-1.0"\nrevision = "1"\nfamily = "sd"\n'
            f'model = "{root}/model"\nsteps = {STEPS}\nwidth = {SIDE}\nheight = {SIDE}\n'
        )

    def ask(self, generator: str, count: int, batch: int) -> list[str]:
        """Write the recipe and its prompts; the texts."""
        from imaginet_build import prompts

        texts = [prompt.text for prompt in prompts.expand("photos", count, 0)]
        (self.root / "texts.json").write_text(json.dumps(texts))
        recipe = f'name = "bench"\n[[generate]]\ngenerator = "{generator}"\ncategory = "photos"\ncount = {count}\n'
        (self.root / "bench.toml").write_text(f"{recipe}batch = {batch}\n[engine]\nworkers = 1\n")
        return texts

    def ours(self) -> list[str]:
        """The command; it draws into a new work folder."""
        shutil.rmtree(self.root / "work", ignore_errors=True)
        return [sys.executable, "-m", "imaginet_build", "generate", "--recipe", "bench.toml", "--work", "work"]

    def bare(self, batch: int) -> list[str]:
        """The script; it draws into an empty folder."""
        shutil.rmtree(self.root / "out", ignore_errors=True)
        (self.root / "out").mkdir()
        settings = map(str, (SIDE, batch, STEPS))
        return [sys.executable, "-c", BARE, f"{self.root}/model", f"{self.root}/texts.json", f"{self.root}/out", *settings]

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Run it here, in silence unless it fails."""
        return subprocess.Popen(command, cwd=self.root, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def whole(self, command: list[str]) -> tuple[float, float]:
        """Wall and CPU seconds of a run and all its processes."""
        started = time.monotonic()
        process = self.start(command)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{command[:6]} failed")
        return time.monotonic() - started, used.ru_utime + used.ru_stime

    def first(self, command: list[str], pattern: str) -> float:
        """Seconds until the first finished image lies there."""
        started = time.monotonic()
        process = self.start(command)
        while not any(path for path in self.root.glob(pattern) if not path.name.startswith(".")):
            if process.poll() not in (None, 0):
                raise RuntimeError(f"{command[:6]} failed")
            time.sleep(0.005)
        seconds = time.monotonic() - started
        process.wait()
        return seconds


def whole_run(place: Place, count: int = 96, rounds: int = 3) -> list[Row]:
    """Wall and CPU time of all of it, imports and loading included."""
    place.ask("bench-sdxl", count, BATCH)
    pairs = [(place.whole(place.bare(BATCH)), place.whole(place.ours())) for _ in range(rounds)]
    assert len(list((place.root / "out").iterdir())) == count
    rows: list[Row] = []
    for i, unit in enumerate(("seconds", "CPU seconds")):
        peer, ours = (statistics.median(pair[side][i] for pair in pairs) for side in (0, 1))
        ratio = statistics.median(pair[0][i] / pair[1][i] for pair in pairs)
        name = f"{count} images of {SIDE} px from a tiny SDXL, start to end, beside the bare script"
        rows.append({"name": name, "ours": ours, "peer": peer, "ratio": ratio, "unit": unit})
    return rows


def first_image(place: Place, rounds: int = 5) -> list[Row]:
    """Seconds until the first image is finished, one image a batch."""
    place.ask("bench-sdxl", 1, 1)
    pairs = [
        (place.first(place.bare(1), "out/*.png"), place.first(place.ours(), "work/parts/generate/*.parquet"))
        for _ in range(rounds)
    ]
    peer, ours = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
    more = statistics.median(b - a for a, b in pairs)
    name = "until the first image is there, beside the bare script"
    bound = "until the first image is there: more than the bare script, beside the bound"
    return [
        {"name": name, "ours": ours, "peer": peer, "ratio": peer / ours, "unit": "seconds"},
        {"name": bound, "ours": more, "peer": 1.5, "ratio": 1.5 / max(more, 0.001), "unit": "seconds"},
    ]


def memory(place: Place, count: int = 10_000) -> list[Row]:
    """The sum of the resident memory of all processes while `count` images are drawn, as a straight line over the images."""
    place.ask("tiny-gan", count, 8)
    process = place.start(place.ours())
    seen: list[tuple[int, float]] = []
    while process.poll() is None:
        time.sleep(1)
        done = 8 * sum(not path.name.startswith(".") for path in place.root.glob("work/parts/generate/*.parquet"))
        seen.append((done, sum(map(resident, family(process.pid))) / 1e6))
    if process.returncode:
        raise RuntimeError("the run failed")
    # The first fifth is start-up; in the last seconds processes end.
    steady = np.array([(done, size) for done, size in seen if 0.2 * count <= done <= 0.97 * count])
    slope, level = np.polyfit(steady[:, 0], steady[:, 1], 1)
    name = f"memory of all processes over {count:,} images: growth by the fitted line"
    row: Row = {"name": name, "ours": slope * count, "peer": level, "ratio": level / max(slope * count, 1e-9)}
    return [{**row, "unit": f"MB, beside the level; {len(steady)} readings"}]


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [one for child in task.read_text().split() for one in family(int(child))]
        except OSError:
            continue
    return found


def resident(pid: int) -> int:
    """Private and shared memory in bytes, each page divided by how many share it; 0 for a process that has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return 1024 * int(next((line.split()[1] for line in text.splitlines() if line.startswith("Pss:")), "0"))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        rows = first_image(place) + whole_run(place) + memory(place)
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
