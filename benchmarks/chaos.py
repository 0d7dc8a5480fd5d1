"""What survives kills, full disks, second processes, flipped bytes, odd clocks, and repetition.

    python benchmarks/chaos.py                  # everything, about 40 minutes on one core
    python benchmarks/chaos.py kills --kills 9  # a part of it, shorter

Each part prints one line of figures, which docs/reliability.md has; the exit code is 1 if anything
was found that must not be.  Scans are tiny, so that most of a command's time is starting it.
"""

import argparse
import contextlib
import gc
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np

from ptychocli.main import main as call
from ptychoconfig.errors import BundleError, PtychoError
from ptychodata.bundle import Bundle, read_bundle
from ptychodata.files import leftovers
from ptychodata.formats import read
from ptychodata.results import read_reconstruction

ROOT = Path(__file__).parents[1]
NETWORK = "--unrolled-steps 1 --unrolled-width 8 --unrolled-levels 1 --gridsize 1 --batch-size 6"
TRAIN = f"train scan.npz {NETWORK} --epochs 3 --probe file --accelerator cpu --precision 32-true"
TRAIN += " --checkpoint-interval 0.2 --preview-every 0 --output-dir run"
INFER = "infer ../bundle.zip ../scan.npz --probe file --accelerator cpu --output-dir run"
TRAIN = TRAIN.replace("scan.npz", "../scan.npz")
CONVERT = "convert ../scan.npz out.npz"

Faults = list[str]


class Bench:
    """A folder with a scan and a bundle, and the results of commands that nothing disturbed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        simulate = "simulate scan.npz --N 32 --n-patterns 36 --nphotons 1e5 --seed 5"
        self.call(simulate, folder)
        (folder / "calm").mkdir()
        self.seconds = {}
        for command in (TRAIN, INFER, CONVERT):
            started = time.monotonic()
            self.call(command, folder / "calm")
            self.seconds[command] = time.monotonic() - started
            if command is TRAIN:
                self.trained = read_bundle(folder / "calm" / "run")
                (folder / "calm" / "run" / "wts.h5.zip").rename(folder / "bundle.zip")
        self.image = read_reconstruction(folder / "calm" / "run").obj
        self.counts = read(folder / "calm" / "out.npz").counts()

    def start(self, command: str, cwd: Path, **more: str) -> subprocess.Popen[str]:
        """Start a command; what it says can be read from the process."""
        words = [sys.executable, "-m", "ptychocli", *command.split()]
        quiet = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PTYCHO_REPORT": "false"}
        return subprocess.Popen(
            words, cwd=cwd, env={**os.environ, **quiet, **more}, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def call(self, command: str, cwd: Path, expect: int = 0, **more: str) -> str:
        """Run a command to its end; what it said on stderr."""
        process = self.start(command, cwd, **more)
        out, told = process.communicate(timeout=300)
        if process.returncode != expect or "Traceback" in told:
            raise AssertionError(f"{command}: code {process.returncode}, not {expect}\n{out}{told}")
        return told

    def check(self, command: str, cwd: Path) -> str:
        """``absent``, ``whole``, or what is wrong with the result that stands there."""
        try:
            if command is TRAIN:
                if not (cwd / "run" / "wts.h5.zip").exists():
                    return "absent"
                same = same_bundle(read_bundle(cwd / "run"), self.trained)
            elif command is INFER:
                if not (cwd / "run" / "reconstruction.npz").exists():
                    return "absent"
                same = bool(np.array_equal(read_reconstruction(cwd / "run").obj, self.image))
            else:
                if not (cwd / "out.npz").exists():
                    return "absent"
                same = bool(np.array_equal(read(cwd / "out.npz").counts(), self.counts))
        except PtychoError as error:
            return f"broken: {error}"
        return "whole" if same else "another result"


def same_bundle(one: Bundle, other: Bundle) -> bool:
    """Whether two bundles hold the same, but for the times in their history."""
    arrays = [
        one.weights.keys() == other.weights.keys(),
        all(np.array_equal(one.weights[n], other.weights[n]) for n in one.weights),
        all(map(np.array_equal, one.probes, other.probes)) and len(one.probes) == len(other.probes),
    ]
    rest = [replace(b, weights={}, probes=()).__dict__ for b in (one, other)]
    return all(arrays) and json.dumps(rest[0]) == json.dumps(rest[1])


def kills(bench: Bench, count: int) -> Faults:
    """SIGKILL at random moments; what is left is looked at, and the same command runs again.

    A command that is killed is a fork of this process, which has imported what takes most of a
    command's time, so that the moments fall into its work.
    """
    for module in ("training", "inference", "solver"):
        import_module(f"ptychotorch.{module}")
    faults, draw = Faults(), random.Random(1)  # noqa: S311 - moments, no secrets
    again = {TRAIN: " --resume auto", INFER: " --force", CONVERT: " --force"}
    made, done = dict.fromkeys(again, 0), {"absent": 0, "whole": 0}
    seconds = {command: _undisturbed(bench, command) for command in again}
    chains = stray = 0
    while sum(made.values()) < count:
        command = list(again)[chains % 3]
        chains += 1
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            cwd, words = Path(folder), (command + again[command]).split()
            for _ in range(min(4, count - sum(made.values()))):
                child = _fork(words, cwd)
                time.sleep(draw.uniform(0, 1.0) * seconds[command])
                os.kill(child, signal.SIGKILL)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                made[command] += code == -signal.SIGKILL
                state = bench.check(command, cwd)
                if state not in done or code not in (-signal.SIGKILL, 0):
                    faults.append(f"{command.split()[0]}: {state}, code {code}\n{_told(cwd)}")
                done[state] = done.get(state, 0) + 1
            stray += len(leftovers(cwd)) + len(leftovers(cwd / "run"))
            faults += _judged(bench, command, _fork(words, cwd), cwd, "after kills")
            if command is not CONVERT and leftovers(cwd / "run"):
                faults.append("temporary files stayed after the rerun")
    shares = ", ".join(f"{name.split()[0]} {n}" for name, n in made.items())
    print(
        f"kills: {sum(made.values())} ({shares}); results found after them: {done['absent']} "
        f"absent, {done['whole']} whole, {len(faults)} faults; {chains} reruns, each with the "
        f"result of an undisturbed run; {stray} temporary files of killed runs lay about before",
        flush=True,
    )
    return faults


def _fork(words: list[str], cwd: Path, first: str = "") -> int:
    """Run a command in a fork of this process, what it says into a file; the process's number.

    ``first`` is Python that the fork executes before.
    """
    child = os.fork()
    if child:
        return child
    os.chdir(cwd)
    with Path("told.txt").open("w") as told:
        os.dup2(told.fileno(), 1)
        os.dup2(told.fileno(), 2)
        exec(first, {})
        os._exit(call(words))
    return 0


def _told(cwd: Path) -> str:
    return (cwd / "told.txt").read_text()


def _undisturbed(bench: Bench, command: str) -> float:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        os.waitpid(_fork(command.split(), Path(folder)), 0)
        if (state := bench.check(command, Path(folder))) != "whole":
            raise AssertionError(f"{command}: {state}\n{_told(Path(folder))}")
    return time.monotonic() - started


@contextlib.contextmanager
def small_disk(folder: Path, bytes_: int) -> Iterator[Path]:
    """A file system of so many bytes, mounted; needs root on Linux."""
    folder.mkdir()
    options = f"size={bytes_},mode=777"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def can_mount(folder: Path) -> bool:
    """Whether this user may mount a file system."""
    try:
        with small_disk(folder / "probe", 65536):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def disks(bench: Bench) -> Faults:
    """Disks of too few bytes, each command on each; and places that cannot be written to."""
    if not can_mount(bench.folder):
        print("disks: skipped, mounting needs root; tests/integration has a limit on file sizes")
        return []
    faults, ran, refused = Faults(), 0, 0
    sizes = [4096 * 2**n for n in range(8)]  # 4 KiB to 512 KiB
    for command in (TRAIN, INFER, CONVERT):
        for size in sizes:
            place = bench.folder / f"disk-{ran}"
            with small_disk(place, size):
                code = _on(bench, command, place, faults, f"{size} bytes")
                ran, refused = ran + 1, refused + (code == 3)
    for command in (TRAIN, INFER, CONVERT):
        place = bench.folder / f"disk-{ran}"
        with small_disk(place, 2**20):
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
            code = _on(bench, command, place, faults, "read-only")
            ran, refused = ran + 1, refused + (code == 3)
            if code != 3:
                faults.append(f"read-only: {command.split()[0]} ended with {code}")
    print(
        f"disks: {ran} runs on {len(sizes)} sizes from 4 KiB to 512 KiB and read-only, {refused} "
        f"refused with code 3, the others whole; {len(faults)} faults",
        flush=True,
    )
    return faults


def _on(bench: Bench, command: str, place: Path, faults: Faults, what: str) -> int:
    process = bench.start(command, place)
    _, told = process.communicate(timeout=300)
    state = bench.check(command, place)
    good = (process.returncode, state) in ((0, "whole"), (3, "absent"), (3, "whole"))
    if not good or "Traceback" in told:
        faults.append(f"{what}: {command.split()[0]} {process.returncode} {state}\n{told}")
    return process.returncode


def two(bench: Bench) -> Faults:
    """A second process on the output folder of one at work."""
    faults, refused = Faults(), 0
    for first, second in ((TRAIN, TRAIN), (TRAIN, INFER), (INFER, TRAIN), (INFER, INFER)):
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            cwd = Path(folder)
            process = bench.start(first, cwd)
            while process.poll() is None and not (cwd / "run" / "run.log").exists():
                time.sleep(0.01)
            process.send_signal(signal.SIGSTOP)  # so that it is still at work, however slow
            for way in ("", " --force"):
                told = bench.call(second + way, cwd, expect=3)
                refused += "another folder" in told
            process.send_signal(signal.SIGCONT)
            _, told = process.communicate(timeout=300)
            if process.returncode or bench.check(first, cwd) != "whole":
                faults.append(f"the first one ended with {process.returncode}: {told}")
    print(f"two: {refused} of 8 second processes refused with code 3, the first ones whole; "
          f"{len(faults)} faults", flush=True)  # fmt: skip
    return faults + ([] if refused == 8 else ["a second process was not refused"])


def flips(bench: Bench) -> Faults:
    """Each byte of a bundle, all its bits turned, then one of them: refused, or nothing changed."""
    content = (bench.folder / "bundle.zip").read_bytes()
    good, path = read_bundle(bench.folder / "bundle.zip"), bench.folder / "flipped.zip"
    faults, refused, harmless = Faults(), 0, 0
    path.write_bytes(content)
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(content):
            for mask in (255, 1 << place % 8):
                file.seek(place)
                file.write(bytes([byte ^ mask]))
                try:
                    found = read_bundle(path)
                except BundleError:
                    refused += 1
                except Exception as error:  # noqa: BLE001 - just what is looked for
                    faults.append(f"byte {place} ^ {mask}: {type(error).__name__}: {error}")
                else:
                    harmless += 1
                    if not same_bundle(found, good):
                        faults.append(f"byte {place} ^ {mask}: another content was accepted")
            file.seek(place)
            file.write(bytes([byte]))
    print(
        f"flips: {2 * len(content)} of {len(content)} bytes; {refused} refused as broken bundles, "
        f"{harmless} leave every member identical; {len(faults)} faults",
        flush=True,
    )
    return faults


ODD = {
    "a clock in 1970": "import time; time.time = lambda: 0.0",
    "a clock before 1970": "import time; time.time = lambda: -1e9",
    "a clock in 2400": "import time; time.time = lambda: 1.36e10",
    "a clock that runs backwards": (
        "import time, itertools; n = itertools.count(); time.time = lambda: 2e9 - 60 * next(n)"
    ),
}
LOCALES = {
    "C, no UTF-8": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ASCII streams": {"PYTHONIOENCODING": "ascii"},
    "Turkish": {"LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "tr"},
    "German": {"LC_ALL": "de_DE.UTF-8"},
    "a zone of +14": {"TZ": "Pacific/Kiritimati"},
    "an unknown zone": {"TZ": "Nowhere/At_All"},
    "no home": {"HOME": "/nonexistent"},
    "SOURCE_DATE_EPOCH": {"SOURCE_DATE_EPOCH": "-1"},
    "a narrow terminal": {"COLUMNS": "1", "LINES": "1"},
}


NAMES = ("with space", "ünïcödé-名", "new\nline", "-dash", "x" * 250, "%s{}$HOME")


def oddities(bench: Bench) -> Faults:
    """Clocks, locales, zones and names of files that are not usual."""
    import_module("ptychotorch.training")
    import_module("ptychotorch.inference")
    faults, ran = Faults(), 0
    for what, code in ODD.items():
        for command in (TRAIN, INFER, CONVERT):
            ran += 1
            with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
                child = _fork(command.split(), Path(folder), code)
                faults += _judged(bench, command, child, Path(folder), what)
    for name in NAMES:
        ran += 1
        with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
            cwd = Path(folder, name)
            cwd.mkdir()
            (cwd / "scan.npz").write_bytes((bench.folder / "scan.npz").read_bytes())
            words = ["infer", str(bench.folder / "bundle.zip"), str(cwd / "scan.npz")]
            words += ["--probe=file", "--accelerator=cpu", f"--output-dir={cwd / 'run'}"]
            faults += _judged(bench, INFER, _fork(words, cwd), cwd, repr(name))
    for what, environment in LOCALES.items():  # which count when Python starts
        for command in (INFER, CONVERT, "inspect ../scan.npz", "--help"):
            ran += 1
            with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
                try:
                    bench.call(command, Path(folder), **environment)
                except AssertionError as error:
                    faults.append(f"{what}: {error}")
                state = bench.check(command, Path(folder)) if command in bench.seconds else "whole"
                if state != "whole":
                    faults.append(f"{what}: {command.split()[0]} {state}")
    print(f"oddities: {ran} runs, {len(faults)} faults", flush=True)
    return faults


def _judged(bench: Bench, command: str, child: int, cwd: Path, what: str) -> Faults:
    """Wait for a fork; what is wrong with it or its result."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    state, told = bench.check(command, cwd), _told(cwd)
    good = code == 0 and state == "whole" and "Traceback" not in told
    return [] if good else [f"{what}: {command.split()[0]} {code} {state}\n{told}"]


def repeats(bench: Bench, count: int) -> Faults:
    """The same training many times in one process: files, descriptors, threads and memory."""
    os.environ["OMP_NUM_THREADS"] = "1"
    cwd = bench.folder / "repeats"
    cwd.mkdir()
    words = [*TRAIN.replace("--epochs 3", "--epochs 1").split(), "--force", "--quiet"]
    seen: list[dict[str, int]] = []
    before = os.getcwd()
    os.chdir(cwd)
    try:
        for _ in range(count):
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                code = call(words)
            if code:
                return [f"a training ended with {code}"]
            gc.collect()
            seen.append(_held(cwd))
    finally:
        os.chdir(before)
    middle, last = seen[len(seen) // 2], seen[-1]
    grown = {name: last[name] - middle[name] for name in last}
    each = grown["memory_bytes"] / 1024 / max(1, count - 1 - count // 2)
    print(
        f"repeats: {count} trainings in one process; files {last['files']}, descriptors "
        f"{last['descriptors']}, threads {last['threads']}; memory "
        f"{last['memory_bytes'] / 1e6:.0f} MB, over the second half {each:+.0f} kB a training",
        flush=True,
    )
    grows = [name for name in ("files", "descriptors", "threads") if grown[name] > 0]
    faults = [f"{name} grew by {grown[name]} over the second half" for name in grows]
    return faults + ([f"memory grew by {each:.0f} kB a training"] if each > 100 else [])


def _held(folder: Path) -> dict[str, int]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "files": sum(len(files) for _, _, files in os.walk(folder)),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "memory_bytes": pages * resource.getpagesize(),
    }


def main() -> int:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "parts", nargs="*", help="kills disks two flips oddities repeats; default all"
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=50)
    asked = parser.parse_args()
    parts: dict[str, Callable[[Bench], Faults]] = {
        "kills": lambda bench: kills(bench, asked.kills),
        "disks": disks,
        "two": two,
        "flips": flips,
        "oddities": oddities,
        "repeats": lambda bench: repeats(bench, asked.repeats),
    }
    faults = Faults()
    os.environ.update(OMP_NUM_THREADS="1", MPLBACKEND="Agg", PTYCHO_REPORT="false")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        told = ", ".join(f"{name.split()[0]} {s:.1f} s" for name, s in bench.seconds.items())
        print(f"undisturbed: {told}", flush=True)
        for name in asked.parts or parts:
            faults += parts[name](bench)
    for fault in faults:
        print(f"FAULT {fault}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
