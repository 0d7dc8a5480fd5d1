"""A few hundred mutated files of every format; and that the fuzzer sees what it is to see."""

import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ptychoconfig.errors import DataError
from ptychodata import formats

if sys.platform == "win32":
    pytest.skip("needs named pipes and limits of memory", allow_module_level=True)

from . import fuzz, mutations

INPUTS = 200


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    report = fuzz.campaign(tmp_path, seed=2, first=0, count=INPUTS)
    assert not report["findings"]
    assert report["inputs"] == INPUTS
    assert report["outcomes"]["read"] > INPUTS / 20 and report["outcomes"]["refused"] > INPUTS / 3
    assert {name.split()[0] for name in report["by_format"]} == set(formats.formats())


def test_every_format_has_a_valid_sample(tmp_path: Path) -> None:
    for seed in mutations.seeds(tmp_path):
        assert len(formats.read(seed.path)) == 5


def test_a_format_without_a_sample_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutations, "formats", lambda: {**formats.formats(), "new": "a new one"})
    with pytest.raises(LookupError, match="new"):
        mutations.seeds(tmp_path)


def test_an_input_is_the_same_each_time(tmp_path: Path) -> None:
    [seed, *_] = mutations.seeds(tmp_path)
    for number in range(20):
        made = [
            mutations.mutated(seed, tmp_path / f"{number} {i}", np.random.default_rng(number))
            for i in range(2)
        ]
        assert made[0][1] == made[1][1]


class Program:
    def __reduce__(self) -> Any:
        return print, ("unpickled",)


def _warn() -> None:
    warnings.warn("overflow", RuntimeWarning, stacklevel=1)


BAD: dict[str, Any] = {
    "raised KeyError": lambda: {}["x"],
    "raised RuntimeWarning": _warn,
    "forbidden": lambda: pickle.loads(pickle.dumps(Program())),  # noqa: S301 - it is the test
    "memory": lambda: np.ones(2**23),
    "refused": lambda: (_ for _ in ()).throw(DataError("expected a scan")),
    "read": lambda: None,
}


@pytest.mark.parametrize("outcome", BAD)
def test_what_a_reader_does_wrong_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    [seed, *_] = mutations.seeds(tmp_path)
    good, done = formats.read(seed.path), []
    sys.addaudithook(lambda event, _: done.append(event) if event in fuzz.FORBIDDEN else None)

    def reader(_: Path) -> Any:
        kept = BAD[outcome]()
        return good if kept is None or outcome == "memory" else kept

    monkeypatch.setattr(formats, "read", reader)
    monkeypatch.setattr(fuzz, "MEMORY_BYTES", 2**25)
    if outcome == "memory" and not Path("/proc/self/clear_refs").exists():
        pytest.skip("the system does not tell the most memory since a moment")
    assert fuzz._outcome(seed.path, done)[0] == outcome


def test_data_from_outside_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [seed, *_] = mutations.seeds(tmp_path)
    scan = formats.read(seed.path)
    scan.positions_px[2] = mutations.SENTINEL
    monkeypatch.setattr(formats, "read", lambda _: scan)
    assert fuzz._outcome(seed.path, [])[0] == "data from outside"


@pytest.mark.parametrize(
    ("program", "outcome"),
    [("import time; time.sleep(60)", "hang"), ("import os; os._exit(3)", "crash 3")],
)
def test_a_worker_that_hangs_or_dies_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, outcome: str
) -> None:
    """A worker that goes wrong in its third input, again and again."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import json, sys\n"
        "first = int(sys.argv[sys.argv.index('--first') + 1])\n"
        "for i in range(first, 4):\n"
        "    about = {'input': i, 'seed': 'npz', 'mutation': 'none'}\n"
        "    print(json.dumps(about), flush=True)\n"
        f"    if i == 2:\n        {program}\n"
        "    print(json.dumps({**about, 'outcome': 'read'}), flush=True)\n"
    )
    monkeypatch.setattr(fuzz, "__file__", str(worker))
    monkeypatch.setattr(fuzz, "TIME_S", 1.0)
    report = fuzz.campaign(tmp_path, seed=0, first=0, count=4)
    assert report["outcomes"] == {"read": 3, outcome: 1}
    assert [found["input"] for found in report["findings"]] == [2]
