import sys

import pytest

from experiments.tensorboard import also_to_tensorboard, require_tensorboard
from l2o.errors import UserError


def test_every_number_becomes_a_scalar(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    seen = []
    show = also_to_tensorboard(seen.append, tmp_path)
    rows = [{"step": 5, "meta_loss": 0.5, "skipped": 0}, {"step": 10, "meta_loss": 0.25, "skipped": 1}]
    for row in rows:
        show(row)
    assert seen == rows
    (file,) = tmp_path.iterdir()
    found = {
        (event.step, value.tag): value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    }
    assert found == {(5, "meta_loss"): 0.5, (5, "skipped"): 0.0, (10, "meta_loss"): 0.25, (10, "skipped"): 1.0}


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        require_tensorboard()
