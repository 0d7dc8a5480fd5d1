"""Processes that share the work: each part is taken once, and sums are those of all."""

import subprocess
import sys
from itertools import chain

import pytest
import torch

from ptychoconfig.errors import BackendError
from ptychoconfig.schema import ExecutionConfig
from ptychotorch import ranks
from ptychotorch.ranks import Ranks, join

SCRIPT = """
import sys, torch
from ptychoconfig.schema import ExecutionConfig
from ptychotorch.ranks import join

mine = join(ExecutionConfig(accelerator="cpu", devices=3))
total = torch.zeros(4, dtype=torch.float64)
for item in mine.mine(range(8)):
    total[item % 4] += item
if mine.rank == int(sys.argv[1]):
    raise SystemExit(5)
mine.sum(total)
assert join(ExecutionConfig(accelerator="cpu", devices=3)) == mine
if mine.rank == 0:
    print(total.tolist())
"""

EARLY = """
import os
from ptychoconfig.schema import ExecutionConfig
from ptychotorch.ranks import join

if os.environ.get("RANK") == "1":
    raise SystemExit(5)
join(ExecutionConfig(accelerator="cpu", devices=2))
"""


def run(script, tmp_path, *argv):
    path = tmp_path / "work.py"
    path.write_text(script)
    command = [sys.executable, path, *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.integration
def test_the_first_starts_the_others_and_sums_meet(tmp_path):
    done = run(SCRIPT, tmp_path, -1)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["[4.0,", "6.0,", "8.0,", "10.0]"]


@pytest.mark.integration
def test_one_that_ends_before_it_comes_is_told(tmp_path):
    done = run(EARLY, tmp_path)
    assert done.returncode == 1
    assert "found that number 1 ended with code 5" in done.stderr


def test_parts_are_all_of_it():
    parts = [list(Ranks(rank, 3).mine(range(10))) for rank in range(3)]
    assert sorted(chain(*parts)) == list(range(10)) and parts[1] == [1, 4, 7]
    canvas = torch.ones(3)
    assert list(Ranks().mine("ab")) == ["a", "b"]
    Ranks().sum(canvas)
    assert canvas.tolist() == [1, 1, 1]
    assert join(ExecutionConfig()) == Ranks()


def test_each_takes_its_own_gpu(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert Ranks(2, 4).device(torch.device("cuda")) == torch.device("cuda", 2)
    assert Ranks(2, 4).device(torch.device("cpu")) == torch.device("cpu")
    assert Ranks().device(torch.device("cuda")) == torch.device("cuda")


def test_a_launcher_must_say_where_to_meet(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(BackendError, match="MASTER_ADDR"):
        ranks.join(ExecutionConfig(accelerator="cpu", devices=2))
