"""The house stands: dependencies run one way, modules stay small, nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "imaginet_build"

FLOORS: tuple[frozenset[str], ...] = (
    # ground
    frozenset({"errors"}),
    frozenset({"records", "toml", "journal", "answers", "ledger", "prices", "manner"}),
    frozenset(
        {"c2pa", "provenance", "jpegfile", "containers", "embedded", "decoding", "hashing", "hamming", "connect", "dedup"}
        | {"jpegrows", "tiles", "crops"}
    ),
    frozenset({"images"}),
    frozenset({"perturb"}),
    # tools
    frozenset(
        {
            "rules",
            "licences",
            "publish_settings",
            "recipe",
            "cards",
            "readiness",
            "catalog",
            "prompts",
            "prompt_rules",
            "people",
            "store",
            "born",
            "spill",
            "engine",
            "workspace",
        }
    ),
    frozenset({"entries", "guards", "regions", "watermark", "arrival", "availability", "intake", "quotas", "subjects"}),
    frozenset(
        {
            "pairing",
            "dualencoder",
            "probes",
            "pixel_probes",
            "content_probes",
            "tags",
            "crossfit",
            "ridge",
            "facts",
            "lists",
            "targets",
        }
    ),
    frozenset({"markers", "gate", "findings", "probe_tables", "leaks", "bias"}),
    frozenset({"strata", "highs", "programme", "pool", "heldout", "likeness"}),
    frozenset(
        {
            "contamination",
            "embedding",
            "holdings",
            "resemblance",
            "nearness",
            "twins",
            "splits",
            "choice",
            "shortfall",
            "equalize",
            "cells",
            "planfile",
            "orders",
            "dues",
        }
        | {"finishing"}
    ),
    frozenset({"matching", "candidates"}),
    frozenset(
        {
            "release",
            "manifest",
            "columns",
            "tiers",
            "living",
            "laws",
            "frozen",
            "changelog",
            "releasediff",
            "releaseprovenance",
            "releasefolder",
            "carrying",
            "configs",
            "cardfacts",
            "plandiff",
            "releasewriter",
            "metadatatable",
            "shardpixels",
            "shardwriter",
            "rowfile",
            "joining",
            "releaserows",
            "rejections",
            "cardwords",
            "croissant",
            "datasetcard",
            "cardlint",
            "reportdata",
            "notices",
            "rights",
            "rightstable",
            "restoring",
        }
    ),
    frozenset({"partners", "given", "judge", "evidence", "keeper", "page"}),
    frozenset({"robustness", "reperturb"}),
    frozenset({"pushplan", "hubpush", "readback", "urlpush"}),
    frozenset({"inert", "torchfiles", "jail", "reading", "upstream"}),
    # verbs
    frozenset(
        {
            "rebuild",
            "sketch",
            "collect",
            "generate",
            "balance",
            "audit",
            "publish",
            "pushing",
            "report",
            "doctor",
            "detect",
            "baseline",
            "convert",
        }
    ),
    # what ties them together, and the command line
    frozenset(
        {
            "adapterproof",
            "clearance",
            "detection",
            "evaluation",
            "evaluationtext",
            "rebuilding",
            "growing",
            "composition",
            "summaries",
            "releasecheck",
            "stages",
            "delivery",
            "outlook",
            "pipeline",
        }
    ),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
"""From the cellar to the roof. A module imports from its own floor or from below, verbs only from below."""

FOLDERS = {
    "auditing",
    "balancing",
    "collecting",
    "destinations",
    "detecting",
    "converting",
    "duplicates",
    "imagefiles",
    "paying",
    "releases",
    "running",
}
"""Folders that only sort modules for whoever looks for one: each module in them has a floor of its own."""

VERBS = next(floor for floor in FLOORS if "collect" in floor)
GROUND = frozenset().union(*FLOORS[:5])
HANDS = ("generators", "collectors", "detectors")
VENDORS = {
    "torch", "diffusers", "transformers", "accelerate", "datasets", "huggingface_hub", "openai", "google", "httpx2",
    "onnxruntime", "onnx", "pandas", "sklearn", "scipy", "skimage",
}  # fmt: skip
MAY_IMPORT_A_HAND = {
    "adapterproof": {"generators"},
    "baseline": {"detectors"},
    "collect": {"collectors"},
    "convert": {"generators"},
    "judge": {"detectors"},
}
"""`baseline` trains the SelfCon detector; `collect` names the Collector protocol, `convert` checks weights against a
network, `judge` reads checkpoints, `adapterproof` runs the conformance suite that ships."""


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "_shipped" not in path.parts)


def room(path: Path) -> str:
    """What has a floor: a module, also one in a folder of `FOLDERS`, or a whole sub-package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[1] if parts[0] in FOLDERS else parts[0]


def named(dotted: str) -> str:
    """The same for an imported module's full name."""
    parts = dotted.split(".")[1:]
    return parts[1] if parts[0] in FOLDERS else parts[0]


def imported(tree: ast.AST) -> set[str]:
    """The rooms of our own that a module imports anywhere, types aside."""
    guarded = {
        id(node)
        for check in ast.walk(tree)
        if isinstance(check, ast.If) and ast.unparse(check.test) == "TYPE_CHECKING"
        for node in ast.walk(check)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.ImportFrom) and node.module in {"imaginet_build", *(f"imaginet_build.{f}" for f in FOLDERS)}:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("imaginet_build."):
            found.add(named(str(node.module)))
        elif isinstance(node, ast.Import):
            found |= {named(alias.name) for alias in node.names if alias.name.startswith("imaginet_build.")}
    return found - {"__version__"}


def floor_of(name: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if name in floor)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    mine = room(path)
    theirs = imported(ast.parse(path.read_text(encoding="utf-8"))) - {mine}
    if mine in ("__init__", "models"):
        return
    if mine in HANDS:
        assert theirs <= GROUND, f"a hand knows only the ground, not {sorted(theirs - GROUND)}"
        return
    hands = theirs & set(HANDS)
    assert hands <= MAY_IMPORT_A_HAND.get(mine, set()), f"{mine} imports a hand by name: {sorted(hands)}"
    for name in theirs - set(HANDS):
        assert floor_of(name) <= floor_of(mine), f"{mine} reaches up to {name}"
        assert not (mine in VERBS and name in VERBS), f"verbs do not import each other: {mine} -> {name}"


def test_there_is_no_circle() -> None:
    graph = {name: set() for name in {room(path) for path in modules()}}
    for path in modules():
        graph[room(path)] |= imported(ast.parse(path.read_text(encoding="utf-8"))) & graph.keys() - {room(path)}
    done: set[str] = set()
    while ready := {name for name in graph.keys() - done if graph[name] <= done}:
        done |= ready
    assert done == graph.keys(), f"these import each other in a circle: {sorted(graph.keys() - done)}"


def test_every_module_has_a_floor() -> None:
    placed = frozenset().union(*FLOORS) | {*HANDS, "__init__", "models"}
    assert {room(path) for path in modules()} <= placed


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_vendors_are_imported_where_they_are_used() -> None:
    """A vendor at the top of a module would make every command pay for it."""
    offenders = []
    for path in modules():
        if room(path) == "models":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            offenders += [f"{path.name}: {name}" for name in names if name.split(".")[0] in VENDORS]
    assert not offenders


def test_only_the_command_line_prints_or_exits() -> None:
    offenders = []
    for path in modules():
        if room(path) in ("cli", "models"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.exit", "exit"):
                offenders.append(f"{path.name}:{node.lineno}")
    assert not offenders


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom imaginet_build.cli import main\ntry: main(['--help'])\nexcept SystemExit: print(sorted(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(ast.literal_eval(shown.strip().splitlines()[-1]))
    assert not loaded & {"torch", "diffusers", "datasets", "pandas", "pyarrow", "numpy", "PIL"}
    assert "generate" in shown
