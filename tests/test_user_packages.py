"""Each package the user named is declared, and put to use by a module of ours: not merely installed beside it."""

from __future__ import annotations

import ast
import functools
import io
import re
import tomllib
from pathlib import Path

import imagehash
import pytest
from pictures import encoded, picture, png
from PIL import Image, ImageOps

from imaginet_build import images

PACKAGE = Path(__file__).resolve().parent.parent / "imaginet_build"

NAMED = {
    "diffusers": "diffusers",
    "transformers": "transformers",
    "torch": "torch",
    "accelerate": "accelerate",
    "datasets": "datasets",
    "pillow": "PIL",
    "openai": "openai",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "imagehash": "imagehash",
}
"""Distribution -> module."""

each = pytest.mark.parametrize("distribution", NAMED)


def declared() -> set[str]:
    """Every distribution that pyproject.toml asks for, in the core or an extra for users."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name != "dev"}
    lines = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    return {re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0].lower() for line in lines}


def only_for_types(tree: ast.AST) -> set[int]:
    """The nodes below `if TYPE_CHECKING:`."""
    checks = (node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    return {id(node) for check in checks for branch in check.body for node in ast.walk(branch)}


def annotations(tree: ast.AST) -> set[int]:
    """The nodes of type annotations."""
    found = [
        getattr(node, field)
        for node in ast.walk(tree)
        for field in ("annotation", "returns")
        if isinstance(getattr(node, field, None), ast.AST)
    ]
    return {id(node) for written in found for node in ast.walk(written)}


@functools.cache
def working_nodes(source: str) -> list[ast.AST]:
    """The nodes of a module that do something when it runs."""
    tree = ast.parse(source)
    ignored = only_for_types(tree) | annotations(tree)
    return [node for node in ast.walk(tree) if id(node) not in ignored]


def uses(source: str, module: str) -> list[str]:
    """What code calls or reads of `module`: names that it imports and then uses as `name.attribute` or `name(...)`."""
    nodes = working_nodes(source)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {a.asname or a.name.partition(".")[0] for a in node.names if a.name.partition(".")[0] == module}
        elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").partition(".")[0] == module:
            names |= {a.asname or a.name for a in node.names}
    found = []
    for node in nodes:
        part = node.func if isinstance(node, ast.Call) else node.value if isinstance(node, ast.Attribute) else None
        if isinstance(part, ast.Name) and part.id in names:
            found.append(ast.unparse(node))
    return found


def users(module: str) -> dict[str, list[str]]:
    """Our modules that use `module`, the training scripts of the bundled models aside."""
    paths = (
        path for path in sorted(PACKAGE.rglob("*.py")) if not {"models", "_shipped"} & set(path.relative_to(PACKAGE).parts)
    )
    found = {str(path.relative_to(PACKAGE)): uses(path.read_text(encoding="utf-8"), module) for path in paths}
    return {path: lines for path, lines in found.items() if lines}


@each
def test_it_is_declared(distribution):
    assert distribution in declared()


@each
def test_it_is_imported_and_put_to_use(distribution):
    assert users(NAMED[distribution]), f"no module of imaginet_build uses {distribution}"


@pytest.mark.parametrize(
    "source",
    [
        "import pandas",
        "import pandas as pd\npandas.read_csv()",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas as pd\nx = pd.NA",
        "from pandas import DataFrame\ndef f(x: DataFrame) -> DataFrame: return x",
        "import pandas as pd\ndef f(x: pd.DataFrame) -> pd.Series: return x",
        "from .pandas import read\nread()",
    ],
)
def test_an_import_alone_a_type_and_a_namesake_are_no_use(source):
    assert uses(source, "pandas") == []


@pytest.mark.parametrize(
    "source",
    [
        "import pandas\npandas.read_csv(1)",
        "def f():\n    from pandas import DataFrame as D\n    return D()",
        "import pandas.io\npandas.NA",
    ],
)
def test_a_call_or_a_read_is_a_use(source):
    assert uses(source, "pandas")


@pytest.mark.parametrize("turned", [None, 3, 6, 8])
def test_the_public_hash_type_is_imagehashs_own_and_so_is_its_value(turned):
    exif = Image.Exif()
    if turned:
        exif[0x0112] = turned
    data = encoded(picture("upright", 150, 110), "PNG", exif=exif) if turned else png("upright", 150, 110)
    found = images.hash_of(images.measure(data))
    assert type(found) is imagehash.ImageHash
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert found == imagehash.phash(upright)
    assert found - imagehash.phash(upright) == 0
