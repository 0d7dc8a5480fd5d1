"""Read mutated scan files of every known format, and say what is not refused as it should be.

    python packages/ptycho-data/tests/fuzz.py --inputs 20000 --seed 0

Valid small files of every format are mutated, byte by byte or in their structure (NPY headers, zip
members; HDF5 datasets, links, attributes), and read in a worker process.  An input passes if it is
read, or refused with an error of ``ptychoconfig.errors``, within the time and memory below.  What
does not pass is kept in ``--keep``: another exception, a warning, a crash, a hang, more memory, an
unpickled object, a started program, data from outside the file's folder.  Input i of a seed is
always the same.  Prints JSON; exit status 1 if anything was found.
"""

import argparse
import contextlib
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":  # the mutations lie beside, and a script has no package
    sys.path.insert(0, str(Path(__file__).parent))
    from mutations import SENTINEL, make_outside, mutated, seeds
else:
    from .mutations import SENTINEL, make_outside, mutated, seeds

PASSED = ("read", "refused")
START_S, TIME_S = 60.0, 20.0
"""How long a worker may take to begin, and to read one input."""
MEMORY_BYTES = 640 * 2**20
"""Resident memory that reading one input may add; a chunk of HDF5 may have 512 MiB."""
ADDRESS_BYTES = 16 * 2**30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that were found")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        work(options.worker, options.seed, options.first, options.inputs)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        report = campaign(Path(scratch), options.seed, options.first, options.inputs, options.keep)
    sys.stdout.write(json.dumps(report, indent=1) + "\n")
    return 1 if report["findings"] else 0


def campaign(
    scratch: Path, seed: int, first: int, count: int, keep: Path | None = None
) -> dict[str, Any]:
    """Read inputs first … first + count − 1, in as many workers as it takes."""
    make_outside(scratch)
    seeds(scratch)
    outcomes: Counter[str] = Counter()
    by_format: dict[str, Counter[str]] = {}
    findings: list[dict[str, Any]] = []
    at, last = first, first + count
    while at < last:
        before = at
        for line in _lines(scratch, seed, at, last - at):
            at = line["input"] + 1
            outcomes[line["outcome"]] += 1
            by_format.setdefault(line["seed"], Counter())[line["outcome"]] += 1
            if line["outcome"] not in PASSED:
                findings.append(line)
                _keep(scratch / "case", keep, line["input"])
        if at == before:
            raise RuntimeError("expected a worker that reads, found none; run it with --worker")
    return {
        "inputs": sum(outcomes.values()),
        "seed": seed,
        "outcomes": dict(outcomes),
        "by_format": {name: dict(found) for name, found in sorted(by_format.items())},
        "findings": findings,
    }


def _keep(case: Path, folder: Path | None, number: int) -> None:
    if folder is not None:
        shutil.copytree(case, folder / str(number), dirs_exist_ok=True)


def _lines(scratch: Path, seed: int, first: int, count: int) -> Iterator[dict[str, Any]]:
    """What one worker says; it ends with the inputs, or with one that it does not survive."""
    command = [sys.executable, __file__, "--worker", str(scratch), "--seed", str(seed)]
    command += ["--first", str(first), "--inputs", str(count)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as worker:
        assert worker.stdout is not None
        begun: dict[str, Any] | None = None
        try:
            while True:
                patience = START_S if begun is None else TIME_S
                ready, _, _ = select.select([worker.stdout], [], [], patience)
                text = worker.stdout.readline() if ready else b""
                if not text:
                    break
                line = json.loads(text)
                if "outcome" not in line:
                    begun = line
                    continue
                begun = None
                yield line
            if begun is not None:
                ended = f"crash {worker.wait(TIME_S)}" if ready else "hang"
                yield {**begun, "outcome": ended}
        finally:
            worker.kill()


def work(scratch: Path, seed: int, first: int, count: int) -> None:
    """Read inputs one after another, saying on stdout what is begun and how it ended."""
    from ptychodata.formats import read

    available = seeds(scratch)
    read(available[0].path)  # import what reading needs before memory is measured
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    done: list[str] = []
    sys.addaudithook(lambda event, _: done.append(event) if event in FORBIDDEN else None)
    case = scratch / "case"
    for number in range(first, first + count):
        shutil.rmtree(case, ignore_errors=True)
        rng = np.random.default_rng([seed, number])
        chosen = available[int(rng.integers(len(available)))]
        about = {"input": number, "seed": chosen.name}
        _say(about)
        path, kind = mutated(chosen, case, rng)
        done.clear()
        outcome, detail = _outcome(path, done)
        _say({**about, "mutation": kind, "outcome": outcome, "detail": detail})
        if outcome not in PASSED:
            return  # a fresh worker: this one may be marked by what it read


FORBIDDEN = frozenset(
    ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")
) | {"socket.connect", "urllib.Request", "shutil.rmtree", "os.remove", "os.rename"}


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _outcome(path: Path, done: list[str]) -> tuple[str, str]:
    """How reading ended, and more about it."""
    from ptychoconfig.errors import PtychoError

    before = _memory_bytes(reset=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            leaked = _read(path)
        outcome, detail = ("data from outside" if leaked else "read"), ""
    except PtychoError as error:
        outcome, detail = "refused", str(error)[:300]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
        outcome, detail = f"raised {type(error).__name__}", _where(error)
    grown = _memory_bytes() - before
    if done:
        return "forbidden", ", ".join(sorted(set(done)))
    if grown > MEMORY_BYTES:
        return "memory", f"{grown / 2**20:.0f} MiB, {outcome}: {detail}"
    return outcome, detail


def _read(path: Path) -> bool:
    """Read what a command would; whether something of it lies outside the file's folder."""
    from ptychodata.formats import read, read_shapes

    with contextlib.suppress(TypeError):  # placeholders of formats without shapes
        read_shapes(path)
    scan = read(path)
    scan.counts(slice(0, 2))
    arrays = [scan.diffraction[:2], scan.positions_px, scan.probe, scan.truth, scan.background]
    return any(array is not None and np.any(np.asarray(array) == SENTINEL) for array in arrays)


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    assert trace is not None
    file = Path(trace.tb_frame.f_code.co_filename).name
    return f"{str(error)[:300]} ({file}:{trace.tb_lineno})"


def _memory_bytes(*, reset: bool = False) -> int:
    """Most resident memory since the last reset, or since the start where none is possible."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
