"""Previews show what the network makes of the scan, and never touch the run."""

import logging

import numpy as np
import pytest

from ptychotorch.training import train

PICTURE = np.zeros((4, 6, 4), np.uint8)


@pytest.fixture
def run(scan, training_payload, tmp_path):
    def go(preview, **flags):
        flags = {"epochs": 4, "preview_every": 2, "gridsize": 1, "n_groups": 16} | flags
        payload = training_payload(**flags)
        return train((scan,), payload, tmp_path, lambda _: None, preview=preview)

    return go


def test_they_come_every_so_many_epochs_and_show_the_object(run, scan):
    seen = {}

    def keep(epoch, image):
        seen[epoch] = image
        return PICTURE

    run(keep)
    assert list(seen) == [1, 3]
    image = seen[3]
    assert np.isfinite(image.obj).all() and len(image.positions_px) == len(scan)
    y, x = image.origin_yx_px.astype(int)
    inner = np.s_[16:-16, 16:-16]
    truth = np.abs(scan.truth[y:, x:][: image.obj.shape[0], : image.obj.shape[1]])[inner]
    assert np.corrcoef(truth.ravel(), np.abs(image.obj)[inner].ravel())[0, 1] > 0.8


def test_they_change_nothing_even_if_they_fail(run, caplog):
    def fail(epoch, image):
        raise RuntimeError("no colours left")

    with caplog.at_level(logging.WARNING):
        runs = [run(preview) for preview in (None, fail, lambda epoch, image: PICTURE)]
    told = [r.getMessage() for r in caplog.records if "preview" in r.getMessage()]
    assert told == [f"no preview of epoch {n}: RuntimeError: no colours left" for n in (1, 3)]
    for other in runs[1:]:
        assert other.history == runs[0].history
        for name, weight in runs[0].weights.items():
            np.testing.assert_array_equal(other.weights[name], weight)


def test_a_large_scan_is_shown_in_part(run, scan, monkeypatch):
    monkeypatch.setattr("ptychodata.training.previews._PATTERNS", 9)
    sizes = []
    run(lambda epoch, image: sizes.append(len(image.positions_px)) or PICTURE, epochs=1)
    assert sizes == [9]


def test_none_are_made_where_none_are_asked_for(run):
    def never(epoch, image):
        raise AssertionError

    run(never, preview_every=0, epochs=1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside the loggers
@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_loggers_take_them(name, run, tmp_path):
    pytest.importorskip(name)
    picture = np.random.default_rng(0).integers(0, 255, (4, 6, 4), dtype=np.uint8)
    run(lambda epoch, image: picture, logger=name, epochs=1)
    if name == "mlflow":
        [found] = tmp_path.glob("mlruns/**/epoch_001.png")
        assert found.read_bytes().startswith(b"\x89PNG")
        return
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    [shown] = events.Images("preview")
    assert (shown.step, shown.width, shown.height) == (1, 6, 4)
