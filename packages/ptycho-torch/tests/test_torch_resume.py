"""A run that was interrupted and resumed is the run that never was; what can go wrong is told."""

import resource
import shutil

import numpy as np
import pytest
import torch

from ptychoconfig.errors import ConfigError
from ptychoconfig.schema import SimulationConfig
from ptychodata.backends import LAST_CHECKPOINT
from ptychodata.simulate import simulate
from ptychotorch.training import train

PLAIN = {"gridsize": 1, "unrolled_steps": 1, "unrolled_levels": 1, "batch_size": 5, "epochs": 3}


@pytest.fixture(scope="module")
def scan():
    """30 patterns: 29 to train on in six batches, one held out."""
    return simulate(SimulationConfig(N=32, n_patterns=30, overlap=0.7, nphotons=1e8))


@pytest.fixture
def run(scan, training_payload, tmp_path):
    """Train in a folder of its own; stop after so many steps, or call ``spoil`` on a report."""

    def go(name, *, stop_after=None, resume=None, scans=(scan,), spoil=None, **flags):
        seen = []

        def report(progress):
            seen.append(progress)
            if spoil:
                spoil(progress)

        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        payload = training_payload(**(PLAIN | flags))
        path = resume and tmp_path / resume / LAST_CHECKPOINT
        asked = lambda: stop_after is not None and len(seen) >= stop_after  # noqa: E731
        return train(scans, payload, folder, report, asked, path)

    return go


def same(one, other):
    equal = [one.weights[k].tobytes() == other.weights[k].tobytes() for k in one.weights]
    return all(equal) and one.history == other.history


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"accumulate_grad_batches": 3, "probe_trainable": True},
        {"scheduler": "plateau", "plateau_threshold": 1.0, "plateau_patience": 0},
        {"scheduler": "exponential", "val_fraction": 0, "num_workers": 1},
        {"ema_decay": 0.9},
        {
            "early_stop_patience": 1,
            "val_fraction": 0.2,
            "learning_rate": 1e-30,
            "scheduler": "constant",
            "epochs": 9,
        },
    ],
    ids=lambda flags: next(iter(flags), "plain"),
)
@pytest.mark.parametrize("stop_after", [4, 9])  # an epoch has seven reports
def test_interrupted_and_resumed_is_never_interrupted(run, flags, stop_after):
    whole = run("whole", **flags)
    run("cut", stop_after=stop_after, **flags)
    assert same(whole, run("cut", resume="cut", **flags))


def test_interrupted_again_and_again(run):
    whole = run("whole", epochs=2)
    run("cut", epochs=2, stop_after=2)
    for _ in range(5):
        run("cut", epochs=2, resume="cut", stop_after=2)
    assert same(whole, run("cut", epochs=2, resume="cut"))


def test_timed_checkpoints_lie_within_an_epoch(run, tmp_path):
    places = []

    def look(progress):
        if (tmp_path / "r" / LAST_CHECKPOINT).exists():
            place = torch.load(tmp_path / "r" / LAST_CHECKPOINT, weights_only=True)["ptycho"]
            places.append((place["epoch"], place["batch"]))

    run("r", epochs=2, checkpoint_interval=1e-6, spoil=look)
    assert {(0, 1), (0, 5), (1, 0), (1, 3)} <= set(places)
    places.clear()
    shutil.rmtree(tmp_path / "r")
    run("r", epochs=2, spoil=look)
    assert set(places) == {(1, 0)}  # within 30 s only the end of an epoch


def test_a_finished_run_has_nothing_left_to_do(run):
    whole = run("r")
    seen = []
    assert same(whole, run("r", resume="r", spoil=seen.append))
    assert not seen


@pytest.mark.parametrize(
    ("flags", "message"),
    [({"epochs": 4}, "--epochs: expected 3"), ({"seed": 7}, "--seed: expected 42")],
)
def test_other_settings_are_refused(run, flags, message):
    run("r", stop_after=2)
    with pytest.raises(ConfigError, match=message):
        run("r", resume="r", **flags)


def test_other_data_and_damaged_checkpoints_are_refused(run, scan, tmp_path):
    run("r", stop_after=2)
    with pytest.raises(ConfigError, match="expected a checkpoint of these scans"):
        run("r", resume="r", scans=(scan.subset(np.arange(25)),))
    (tmp_path / "r" / LAST_CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match="expected a checkpoint of `ptycho train"):
        run("r", resume="r")


def test_a_checkpoint_that_would_execute_code_is_refused(run, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    run("r", stop_after=2)
    torch.save({"ptycho": Bomb()}, tmp_path / "r" / LAST_CHECKPOINT)
    with pytest.raises(ConfigError, match="expected a checkpoint"):
        run("r", resume="r")
    assert not (tmp_path / "executed").exists()


def test_full_disk_keeps_the_last_good_checkpoint(run, tmp_path):
    whole = run("whole")
    last = tmp_path / "r" / LAST_CHECKPOINT
    good = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(progress):
        if last.exists() and not good:
            good.append(last.read_bytes())
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))

    try:
        with pytest.raises(ConfigError, match=r"expected room for .*last\.ckpt"):
            run("r", checkpoint_interval=1e-6, spoil=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert last.read_bytes() == good[0]
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]
    assert same(whole, run("r", resume="r"))


def test_a_lost_folder_is_told(run, tmp_path):
    def lose(progress):
        shutil.rmtree(tmp_path / "r", ignore_errors=True)

    with pytest.raises(ConfigError, match="expected a writable directory"):
        run("r", checkpoint_interval=1e-6, spoil=lose)


@pytest.mark.parametrize("top_k", [0, 2, -1])
def test_the_best_epochs_are_kept_and_each_can_be_resumed(run, tmp_path, top_k):
    history = run("r", epochs=4, checkpoint_save_top_k=top_k).history["val_loss"]
    names = {path.name for path in (tmp_path / "r" / "checkpoints").iterdir()}
    best = sorted(range(4), key=history.__getitem__)[: top_k if top_k >= 0 else 4]
    assert names == {"last.ckpt"} | {
        f"epoch={epoch + 1:04d}-val_loss={history[epoch]:.4g}.ckpt" for epoch in best
    }


def test_the_worst_epochs_by_training_loss(run, tmp_path):
    flags = {"checkpoint_monitor": "train_loss", "checkpoint_mode": "max"}
    history = run("r", **flags).history["train_loss"]
    kept = next((tmp_path / "r" / "checkpoints").glob("epoch=*"))
    assert (
        kept.name
        == f"epoch={history.index(max(history)) + 1:04d}-train_loss={max(history):.4g}.ckpt"
    )


def test_best_epochs_survive_an_interruption(run, tmp_path):
    run("whole", checkpoint_save_top_k=2)
    run("cut", checkpoint_save_top_k=2, stop_after=10)
    run("cut", checkpoint_save_top_k=2, resume="cut")
    whole, cut = (
        {path.name for path in (tmp_path / name / "checkpoints").iterdir()}
        for name in ("whole", "cut")
    )
    assert whole == cut


def test_a_fresh_run_keeps_no_checkpoints_of_the_one_before(run, tmp_path):
    run("r", checkpoint_save_top_k=-1)
    run("r", epochs=1, checkpoint_save_top_k=-1)
    assert len(list((tmp_path / "r" / "checkpoints").iterdir())) == 2
