"""What `import l2o` loads, and that the command line finds this project's own folders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import l2o

ROOT = Path(l2o.__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def python(*arguments, cwd):
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )


def loaded_by(code, cwd):
    result = python("-c", f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))", cwd=cwd)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_import_is_light_and_loads_none_of_our_other_packages(tmp_path):
    modules = loaded_by("import l2o", tmp_path)
    assert "l2o.gradient.lstm" in modules
    unwanted = {"matplotlib", "scipy.stats", "sklearn", "evosax", "orbax", "typer", "tasks", "meta", "experiments"}
    assert not {name for name in modules for one in unwanted if name == one or name.startswith(one + ".")}


def test_using_an_optimizer_loads_none_of_our_other_packages(tmp_path):
    code = """
import jax, jax.numpy as jnp, l2o
tx = l2o.kinds(l2o.OptimizerConfig)["lstm"](hidden=2).build()
tx = tx.native(tx.init(jax.random.key(0)), None)
tx.update(jnp.ones(3), tx.init(jnp.ones(3)))
"""
    assert not loaded_by(code, tmp_path) & {"tasks", "meta", "experiments", "evosax", "matplotlib", "sklearn"}


def test_the_command_line_ignores_folders_of_the_same_name(tmp_path):
    for name in ("tasks", "meta", "experiments"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise RuntimeError('the wrong {name}')\n")
    result = python("-m", "l2o", "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Usage" in result.stdout
    for command in ("train", "study", "list"):
        assert command in result.stdout


def test_import_survives_folders_of_the_same_name(tmp_path):
    for name in ("tasks", "meta", "experiments"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('the wrong {name}')\n")
    assert "l2o" in loaded_by("import l2o", tmp_path)
