"""Which of several processes speaks and writes."""

import pytest

from ptychoconfig.schema import ExecutionConfig
from ptychodata.ranks import rank


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "TF_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 0),
        ({"RANK": "5", "LOCAL_RANK": "1"}, 5),  # torchrun
        ({"SLURM_PROCID": "3"}, 3),
        ({"SLURM_PROCID": "3", "TF_CONFIG": '{"task": {"index": 1}}'}, 1),  # of TensorFlow
        ({"LOCAL_RANK": "1", "NODE_RANK": "1"}, 5),  # started by the trainer of the second machine
        ({"LOCAL_RANK": "1", "SLURM_PROCID": "0"}, 1),  # by the trainer, in an interactive job
    ],
)
def test_rank_follows_from_who_started_the_process(environment, expected, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert rank(ExecutionConfig(devices=4, num_nodes=2)) == expected
    assert rank(ExecutionConfig()) == 0  # a run on one device is alone


def test_a_follower_writes_and_says_nothing(scan, tmp_path, ptycho, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    argv = ("train", scan, "--backend", "stub", "--devices", 2, "--epochs", 1, "--json")
    (tmp_path / "r").mkdir()
    outcome = ptycho(*argv, "--output-dir", tmp_path / "r")
    assert outcome.code == 0, outcome.err
    assert outcome.out == outcome.err == ""
    written = {path.name for path in (tmp_path / "r").iterdir()}
    assert written == {"metrics.csv", "checkpoints"}  # by the stub, which knows no ranks


def test_a_follower_of_an_inference_makes_the_halves_too(
    trained, scan, tmp_path, ptycho, monkeypatch
):
    import ptychostub

    sizes, infer = [], ptychostub.StubBackend.infer

    def watched(self, bundle, scan, payload, report):
        sizes.append(len(scan))
        return infer(self, bundle, scan, payload, report)

    monkeypatch.setattr(ptychostub.StubBackend, "infer", watched)
    monkeypatch.setenv("RANK", "1")
    argv = ("infer", trained, scan, "--devices", 2, "--split-half", "--output-dir", tmp_path / "r")
    outcome = ptycho(*argv, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.out == outcome.err == ""
    assert sizes == [25, 13, 12] and not (tmp_path / "r").exists()
    monkeypatch.setenv("RANK", "0")
    refused = ptycho(*argv, "--probe", "solve")
    assert refused.code == 3
    assert "--devices 2: expected a probe that all processes share" in refused.err
