"""`l2o doctor`: what it finds, and the exit code when something is broken."""

import pytest

from experiments import doctor


def test_an_installation_that_is_whole(cli, strict_json):
    found = cli("doctor", "--json")
    assert found.code == 0 and found.err == ""
    report = strict_json(found.out)
    assert report["broken"] == [] and {"l2o", "jax", "jaxlib", "optax", "dm-haiku", "evosax", "numpy"} <= set(
        report["versions"]
    )
    assert len(report["devices"]) == 4 and report["cache"]["writable"] and report["cache"]["directory"].endswith("jax")
    assert report["data"]["folder"] is None and report["data"]["datasets"]["digits"] is None
    assert "L2O_DATA" in report["data"]["datasets"]["mnist"]
    shown = cli("doctor").out
    assert "  4 x cpu" in shown and "missing: no files of cifar10, fashion_mnist, mnist, brown:" in shown


def test_data_that_are_there(cli, tmp_path, monkeypatch):
    for name in (*doctor.FILES["mnist"], *doctor.FILES["cifar10"], *doctor.FILES["brown"]):
        (tmp_path / f"{name.format('t10k')}.gz").touch()
    monkeypatch.setenv("L2O_DATA", str(tmp_path))
    shown = cli("doctor").out
    assert f"data folder (L2O_DATA): {tmp_path}" in shown and "no files of" not in shown
    (tmp_path / "data_batch_3.bin.gz").unlink()
    shown = cli("doctor").out
    assert "cifar10: data_batch_3.bin (or data_batch_3.bin.gz) is missing" in shown and "no files of cifar10:" in shown


def test_what_is_optional_may_be_missing(cli, monkeypatch):
    monkeypatch.setattr(doctor, "OPTIONAL", {"other": ("no-such-thing", "nothing needs it")})
    found = cli("doctor")
    assert found.code == 0 and "no-such-thing     not installed" in found.out
    assert "missing: no-such-thing is not installed, and nothing needs it: pip install 'l2o[other]'" in found.out


@pytest.mark.parametrize("module", ["no_such_module", "jax.no_such_module"])
def test_what_is_required_may_not(cli, monkeypatch, module):
    monkeypatch.setitem(doctor.REQUIRED, "evosax", module)
    found = cli("doctor")
    assert found.code == 1 and "broken: evosax cannot be imported (ModuleNotFoundError" in found.out


def test_a_damaged_installation(cli, monkeypatch, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "optimizer.json").write_text("{}")
    monkeypatch.setattr("l2o.loaded.ZOO", tmp_path)
    found = cli("doctor")
    assert found.code == 1 and "broken: a shipped optimizer is damaged (" in found.out
