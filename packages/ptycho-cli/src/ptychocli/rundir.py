"""The folder that takes everything a run writes, and nothing outside it.

Logs grow while the run goes; results are written at its end, each whole or not at all, the one
that counts last.  A run that fails before it has written anything leaves no folder behind.
"""

import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from ptychocli.console import WARNING
from ptychocli.versions import package_versions
from ptychoconfig.errors import ConfigError
from ptychodata.files import atomic_path, dump_json, leftovers, sha256_of

if TYPE_CHECKING:
    from ptychocli.console import Console
    from ptychoconfig.resolve import Resolved
    from ptychodata.backends import Progress
    from ptychodata.contracts import Reconstruction, Scan

__all__ = [
    "BUNDLE",
    "PROVENANCE",
    "SETTINGS",
    "RunDir",
    "open_run_dir",
    "output_folders",
    "provenance",
    "refuse_existing",
    "refuse_result",
    "write_product",
]

BUNDLE, PRODUCT = "wts.h5.zip", "product.h5"
PROVENANCE, SETTINGS = "provenance.json", "config.resolved.yaml"


class RunDir:
    """A folder that was checked and may be written to.

    Args:
        path: the existing folder.

    Attributes:
        warnings: what was warned of while the run was kept here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []
        self._waiting: list[str] | None = []

    def begin(self) -> None:
        """Start to write: until here the log waits, so that a false start leaves nothing."""
        lines, self._waiting = self._waiting or [], None
        self._append("run.log", "".join(lines))

    def log(self, message: str) -> None:
        """Append a line with the time to ``run.log``."""
        if message.startswith(WARNING):
            self.warnings.append(message.removeprefix(WARNING))
        line = f"{_now()} {message}\n"
        if self._waiting is None:
            self._append("run.log", line)
        else:
            self._waiting.append(line)

    def event(self, progress: "Progress") -> None:
        """Append a step to ``events.jsonl``."""
        self._append("events.jsonl", dump_json({"time": _now(), **asdict(progress)}, indent=None))

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        with atomic_path(self.path / name) as temporary:
            temporary.write_text(dump_json(content), encoding="utf-8")

    def write_table(self, name: str, counter: str, columns: Mapping[str, Sequence[float]]) -> None:
        """Write a CSV table of columns of one length, numbered from 1, whole or not at all."""
        rows = zip(*columns.values(), strict=True)
        lines = [",".join([counter, *columns])]
        lines += [",".join(map(repr, [n, *map(float, row)])) for n, row in enumerate(rows, 1)]
        with atomic_path(self.path / name) as temporary:
            temporary.write_text("\n".join([*lines, ""]), encoding="utf-8")

    def write_records(self, resolved: "Resolved", origin: Mapping[str, Any]) -> None:
        """Write what makes the run repeatable: ``config.resolved.yaml``, ``provenance.json``."""
        from ptychoconfig.yaml_files import write_resolved

        write_resolved(self.path / SETTINGS, resolved)
        self.write_json(PROVENANCE, origin)

    def _append(self, name: str, line: str) -> None:
        try:
            with (self.path / name).open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise ConfigError(
                f"--output-dir {self.path}: expected to go on writing {name}, found: "
                f"{error.strerror}; restore the folder or free some room, and go on with "
                "--resume auto"
            ) from error


class FollowedRunDir(RunDir):
    """The folder of a run that another process writes to."""

    def begin(self) -> None:
        """Nothing: the other process begins."""

    def log(self, message: str) -> None:
        """Nothing: the other process says it."""

    def event(self, progress: "Progress") -> None:
        """Nothing: the other process tells how far the run is."""


def output_folders(paths: Sequence[Path], output_dir: Path) -> list[Path]:
    """The output folder for one scan; one within it, named after the scan, for each of several.

    Raises:
        ConfigError: two scans would share a folder.
    """
    if len(paths) == 1:
        return [output_dir]
    names = [path.name.split(".")[0] or path.name for path in paths]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            "expected scans of different file names, for one output folder each, found "
            f"{', '.join(twice)} more than once; run them apart with an --output-dir each"
        )
    return [output_dir / name for name in names]


@contextmanager
def open_run_dir(
    path: Path, *, force: bool, resume: bool = False, follows: bool = False
) -> Iterator[RunDir]:
    """Check and create an output folder before any work is done.

    Args:
        path: the folder; it may exist and hold other things.
        force: accept one that already holds a result.
        resume: accept one that already holds a reconstruction.
        follows: another process of the same run checks, creates and writes it.

    Raises:
        ConfigError: it holds a result, is no folder, cannot be written to, or another run is in it.
    """
    if follows:
        yield FollowedRunDir(path)
        return
    refuse_result(path, force=force, resume=resume)
    made = _make(path)
    try:
        with _alone(path):
            for folder in (path, path / "checkpoints", path / "preview"):
                for stale in leftovers(folder):
                    stale.unlink(missing_ok=True)
            yield RunDir(path)
    except BaseException:
        for folder in made:
            if folder.is_dir():  # and not taken away meanwhile
                if any(folder.iterdir()):
                    break
                folder.rmdir()
        raise


def refuse_result(path: Path, *, force: bool, resume: bool = False) -> None:
    """Check that an output folder holds no result, or that it may be overwritten.

    Raises:
        ConfigError: it does, and may not.
    """
    from ptychodata.results import RECONSTRUCTION

    for result in (BUNDLE,) if resume else (BUNDLE, RECONSTRUCTION):
        if (path / result).exists() and not force:
            raise ConfigError(
                f"--output-dir {path}: expected a folder without a result, found {result}; "
                "choose another folder, or overwrite it with --force"
            )


def refuse_existing(path: Path, *, force: bool) -> None:
    """Check that a single output file may be written, before any work is done.

    Raises:
        ConfigError: it exists and ``force`` is not given, or its folder does not.
    """
    if path.is_dir() or (path.exists() and not force):
        found = "a folder" if path.is_dir() else "a file"
        raise ConfigError(
            f"{path}: expected a new file to write, found {found}; "
            f"choose another name{'' if path.is_dir() else ', or overwrite it with --force'}"
        )
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(
            f"{path}: expected a folder {path.parent} that can be written to, found none; "
            "create it or choose another"
        )


def write_product(
    reconstruction: "Reconstruction", scan: "Scan", folder: Path, console: "Console"
) -> None:
    """Write ``product.h5``, which Ptychodus opens, if the pixel size is known; else say why not."""
    import math

    from ptychodata.formats import ptychodus

    if not math.isfinite(reconstruction.pixel_size_m):
        console.note(
            f"no {PRODUCT}: it needs the object pixel size, which {scan.name} does not have; "
            "give --object-pixel-m"
        )
        return
    ptychodus.write_product(
        reconstruction,
        folder / PRODUCT,
        name=scan.name,
        photon_energy_eV=scan.photon_energy_eV,
        detector_distance_m=scan.detector_distance_m,
        comments=f"reconstructed by ptycho {package_versions().get('ptycho-cli', '')}".strip(),
    )


def provenance(scans: Sequence[Path], **more: Any) -> dict[str, Any]:
    """Where a result comes from: command, versions, data, machine.

    Args:
        scans: files that were read; each, and the other of a pair, is recorded with its SHA-256.
        more: further entries, such as seeds.
    """
    from ptychodata.formats import inputs

    files = [file for path in scans for file in inputs(path)]
    return {
        "created": _now(),
        "command": shlex.join(["ptycho", *sys.argv[1:]]),
        "versions": package_versions(),
        "data": [{"path": str(file), "sha256": sha256_of(file)} for file in files],
        "machine": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "processor": platform.machine(),
            "cpu_count": os.cpu_count(),
        },
        **more,
    }


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a folder against other runs; the system lets go of it when the process ends.

    It is the folder itself that is locked, so that no file is left behind by a killed run.  Where
    the file system has no such locks, nothing is held.

    Raises:
        ConfigError: another run holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"--output-dir {path}: expected a folder that no other run writes to, found one at "
                "work in it; wait for it, or choose another folder"
            ) from None
        except OSError:
            pass  # a network file system without locks
        yield
    finally:
        os.close(descriptor)


def _make(path: Path) -> list[Path]:
    """Create a folder and its missing parents; return them, innermost first."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(
            f"--output-dir {path}: expected a folder that can be written to, "
            f"found {error.strerror or error}; choose another folder"
        ) from error
    return missing


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
