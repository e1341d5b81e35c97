"""What the documentation shows must run: the README's Python blocks and every doctest."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import l2o
from l2o import registry

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def _modules():
    for name in ("l2o", "tasks", "meta", "experiments"):
        package = importlib.import_module(name)
        yield name
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not found.name.endswith("__main__"):
                yield found.name


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme_block_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = {room: dict(kinds) for room, kinds in registry._KINDS.items()}
    try:
        exec(compile(BLOCKS[number], f"README.md, block {number}", "exec"), {"__name__": f"readme_{number}"})
    finally:
        registry._KINDS.clear()
        registry._KINDS.update(known)


def test_readme_has_its_examples():
    text = "".join(BLOCKS)
    for needed in ("optax.chain", "import haiku", "import flax", "l2o.register", "Experiment.load"):
        assert needed in text


@pytest.mark.parametrize("name", list(_modules()))
def test_doctests(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_tree_in_the_readme_is_true():
    """Every tracked source file has its line in the README's tree, and the tree names no file that is not there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = text.split("## The tree")[1].split("```")[1]
    named, folders = set(), []
    for line in filter(str.strip, tree.splitlines()):
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        folders[depth:] = [name]
        if not name.endswith("/"):
            named.add("".join(folders))
    present = {
        str(path.relative_to(ROOT))
        for package in ("l2o", "tasks", "meta", "experiments")
        for pattern in ("*.py", "*.toml")
        for path in (ROOT / package).rglob(pattern)
        if path.name != "__init__.py"
    }
    assert named - present <= {"pyproject.toml", "constraints.txt", "Makefile", "CHANGELOG.md", "LICENSE"}
    assert present <= named


def test_version_is_one():
    assert f'version = "{l2o.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
