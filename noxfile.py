"""What a developer and CI run: ``python -m nox -l`` lists the sessions.

Installing Torch takes longer than most checks, so the sessions share one environment,
``.nox/dev``, which the session ``dev`` makes; only ``lint`` (no packages needed) and ``build``
and ``lock`` (which must start clean) have their own.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "typecheck", "tests"]

ROOT = Path(__file__).parent
BIN = "Scripts" if os.name == "nt" else "bin"
DEV = ROOT / ".nox" / "dev"
NAMES = ("config", "data", "torch", "tf", "cli")
PACKAGES = [ROOT / "packages" / f"ptycho-{name}" for name in NAMES]
CONSTRAINTS = ("-c", "constraints.txt")
TOOLS = nox.project.load_toml("pyproject.toml")

PINNED = ("torch==2.13.0", "tensorflow==2.21.0", "h5py==3.14.0")
"""What ``lock`` holds fixed: the tested frameworks, and the newest h5py that TensorFlow accepts."""

BACKENDS = ("ptycho-tf", "ptycho-torch")
"""Packages that need a framework."""

TENSORFLOW = "packages/ptycho-tf"
"""Tests that must not share a process with Torch, which the others import."""

PTYCHI = "ptychi==2.2.0"
"""The tested version of the other engine."""

SOURCE_DATE = "1795500000"
"""Time in what is built, so that the same source gives the same bytes."""

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
"""One thread per process: tests run two at a time, and small kernels are fastest so."""


def _groups(*names: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(TOOLS, *names)


def _metadata(package: Path) -> dict[str, Any]:
    return nox.project.load_toml(package / "pyproject.toml")


def _requirements() -> list[str]:
    """All packages, editable and in one command so that they find each other, and all tools."""
    editable = [argument for package in PACKAGES for argument in ("-e", str(package))]
    tools = list(_groups("dev"))
    for package in PACKAGES:
        tools += nox.project.dependency_groups(_metadata(package), "test")
    return [*editable, *dict.fromkeys(tools)]


def _dev(session: nox.Session, command: str, *arguments: str) -> None:
    """Run a command of the shared environment."""
    path = os.pathsep.join([str(DEV / BIN), os.environ["PATH"]])
    session.run(command, *arguments, external=True, env={**ENVIRONMENT, "PATH": path})


def _pytest(session: nox.Session, *arguments: str) -> None:
    _dev(session, str(DEV / BIN / "python"), "-m", "pytest", *arguments, *session.posargs)


@nox.session(default=False)
def dev(session: nox.Session) -> None:
    """Make the environment that the other sessions share; activate it to work by hand."""
    sources = [ROOT / "pyproject.toml", ROOT / "constraints.txt", Path(__file__)]
    sources += [package / "pyproject.toml" for package in PACKAGES]
    state = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    stamp = DEV / "installed.sha256"
    if stamp.is_file() and stamp.read_text() == state:
        session.log("Nothing has changed since this environment was made.")
        return
    session.install(*CONSTRAINTS, *_requirements())
    stamp.write_text(state)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, and which package may import which."""
    session.install(*CONSTRAINTS, *_groups("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    path = os.pathsep.join(str(package / "src") for package in PACKAGES)
    session.run("lint-imports", "--no-cache", env={"PYTHONPATH": path})


@nox.session(venv_backend="none", requires=["dev"])
def typecheck(session: nox.Session) -> None:
    """Check the types: strict for config, data and cli, normal for the backends."""
    _dev(session, str(DEV / BIN / "mypy"))


@nox.session(venv_backend="none", requires=["dev"])
def tests(session: nox.Session) -> None:
    """Run every test that this machine can run, the integration tests included."""
    _pytest(session, "-n", "2", "--dist", "worksteal", "packages", "tests", "--ignore", TENSORFLOW)
    _pytest(session, "-n", "2", "--dist", "worksteal", TENSORFLOW)


def _package_session(package: Path) -> None:
    name = package.name.removeprefix("ptycho-")

    @nox.session(name=f"tests-{name}", venv_backend="none", requires=["dev"])
    def package_tests(session: nox.Session) -> None:
        _pytest(session, str(package))

    package_tests.__doc__ = f"Run the tests of {package.name}."


for _package in PACKAGES:
    _package_session(_package)


@nox.session(name="tests-min", default=False)
def tests_min(session: nox.Session) -> None:
    """Run the tests of config, data and cli with the lowest versions that they declare."""
    packages = [package for package in PACKAGES if package.name not in BACKENDS]
    floors = Path(session.create_tmp(), "floors.txt")
    floors.write_text("\n".join(_floors(packages)) + "\n")
    test = dict.fromkeys(_groups("test"))
    for package in packages:
        test |= dict.fromkeys(nox.project.dependency_groups(_metadata(package), "test"))
    editable = [argument for package in packages for argument in ("-e", str(package))]
    session.install("-c", str(floors), *editable, *test)
    # Releases of that time use what their own dependencies have deprecated since.
    quiet = ("-W", "ignore::DeprecationWarning", "-W", "ignore::PendingDeprecationWarning")
    session.run("pytest", "-n", "2", *quiet, *map(str, packages), *session.posargs, env=ENVIRONMENT)


def _floors(packages: Sequence[Path]) -> list[str]:
    """The lowest version of each dependency from elsewhere, as constraints."""
    declared = [d for package in packages for d in _metadata(package)["project"]["dependencies"]]
    bounds = dict(dependency.split(">=") for dependency in declared)
    return [f"{name}=={low}" for name, low in bounds.items() if not name.startswith("ptycho-")]


@nox.session(venv_backend="none", requires=["dev"])
def integration(session: nox.Session) -> None:
    """Make a scan, train and infer with the real command."""
    _pytest(session, "tests/integration")


@nox.session(venv_backend="none", requires=["dev"])
def parity(session: nox.Session) -> None:
    """Apply what either backend trained with both, and let both learn from the same weights."""
    arguments = session.posargs or ["--short"]
    _dev(session, str(DEV / BIN / "python"), str(ROOT / "benchmarks" / "parity.py"), *arguments)


@nox.session(venv_backend="none", requires=["dev"])
def demo(session: nox.Session) -> None:
    """Simulate, train, infer and score on the spot; the pictures are in demo/."""
    _dev(session, str(DEV / BIN / "ptycho"), "demo", "--force", *session.posargs)


@nox.session(venv_backend="none", requires=["dev"])
def bench(session: nox.Session) -> None:
    """Measure start-up, simulation and throughput."""
    for script in ("help_time.py", "simulate.py", "throughput.py"):
        _dev(session, str(DEV / BIN / "python"), str(ROOT / "benchmarks" / script))


@nox.session(venv_backend="none", requires=["dev"], default=False)
def fuzz(session: nox.Session) -> None:
    """Read 20,000 mutated scan files of every format; any but a clean refusal is a failure."""
    script = ROOT / "packages" / "ptycho-data" / "tests" / "fuzz.py"
    arguments = session.posargs or ["--inputs", "20000"]
    _dev(session, str(DEV / BIN / "python"), str(script), *arguments)


@nox.session(venv_backend="none", requires=["dev"], default=False)
def chaos(session: nox.Session) -> None:
    """Kill, fill the disk, run twice at once, flip bytes, turn clocks: nothing wrong may stay."""
    script = str(ROOT / "benchmarks" / "chaos.py")
    _dev(session, str(DEV / BIN / "python"), script, *session.posargs)


@nox.session(venv_backend="none", requires=["dev"])
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    _dev(session, str(DEV / BIN / "sphinx-build"), "-EW", "--keep-going", "docs", "docs/_build")


@nox.session(default=False)
def notebook(session: nox.Session) -> None:
    """Make the notebooks of the tutorials anew from their pages, executed."""
    packages = [ROOT / "packages" / f"ptycho-{name}" for name in ("config", "data", "torch")]
    editable = [argument for package in packages for argument in ("-e", str(package))]
    session.install(*CONSTRAINTS, *_groups("notebook"), *editable)
    session.run("python", "docs/notebook.py", env={"OMP_NUM_THREADS": "1"})


@nox.session
def build(session: nox.Session) -> None:
    """Build wheels and sdists, and use them from environments that have nothing else."""
    session.install(*CONSTRAINTS, *_groups("build"))
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    for package in PACKAGES:
        command = ("pyproject-build", "--no-isolation", "--outdir", str(dist), str(package))
        session.run(*command, env={"SOURCE_DATE_EPOCH": SOURCE_DATE})
    scratch = Path(session.create_tmp()).resolve()
    _use_wheels(session, dist, scratch)


def _use_wheels(session: nox.Session, dist: Path, scratch: Path) -> None:
    """Without Torch the command simulates and inspects; once it is there, it trains.

    Each package is asked for by name, the dependent ones first, so that pip finds its siblings in
    the folder of wheels.
    """
    python, ptycho = (str(scratch / "clean" / BIN / name) for name in ("python", "ptycho"))
    session.run("python", "-m", "venv", "--clear", str(scratch / "clean"))
    pip = (python, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"))

    def install(*names: str) -> None:
        session.run(*pip, "--find-links", str(dist), *names, external=True)

    install("ptycho-cli")
    with session.chdir(scratch):
        session.run(ptycho, "--version", external=True)
        simulate = ("simulate", "scan.npz", "--n-patterns", "50", "--force")
        session.run(ptycho, *simulate, external=True)
        session.run(ptycho, "inspect", "scan.npz", external=True)
    install("ptycho-torch")
    install("ptycho-tf", "ptycho-data", "ptycho-config")
    session.run(python, "-m", "pip", "check", external=True)
    with session.chdir(scratch):
        train = "train scan.npz --epochs 1 --n-groups 12 --output-dir run --force"
        session.run(ptycho, *train.split(), external=True)


@nox.session(name="ptychi-env", default=False)
def ptychi_env(session: nox.Session) -> None:
    """Make an environment with pty-chi, for `ptycho reconstruct --engine pty-chi`."""
    session.install(*CONSTRAINTS, "-r", "benchmarks/ptychi-requirements.txt")
    session.install("--no-deps", PTYCHI)  # its torchvision would bring another Torch
    python = Path(session.bin, "python")
    worker = ROOT / "packages/ptycho-data/src/ptychodata/engines/scripts/ptychi_worker.py"
    session.run(str(python), "-P", str(worker), "--check")
    session.log(f"Use it with --engine-python {python} or PTYCHO_PTYCHI_PYTHON={python}")


@nox.session(default=False, reuse_venv=False)
def lock(session: nox.Session) -> None:
    """Resolve everything anew and write constraints.txt."""
    session.install(*PINNED, *_requirements(), *_groups("notebook"))
    # `pip list`, not `pip freeze`: a wheel from disk has a version there, and no path.
    command = ("python", "-m", "pip", "list", "--format=json", "--exclude-editable")
    listed = json.loads(str(session.run(*command, silent=True)))
    found = {entry["name"]: entry["version"] for entry in listed}
    drivers = sorted(name for name in found if name.startswith(("nvidia-", "cuda-", "triton")))
    if drivers:
        session.error(f"expected a CPU build of Torch, found it brings {', '.join(drivers)}")
    # 2.13.0+cpu and 2.13.0 are one version: the build's label is the machine's choice.
    pins = [f"{name}=={version.partition('+')[0]}" for name, version in found.items()]
    pins = [pin for pin in sorted(pins, key=str.lower) if not pin.startswith("pip==")]
    header = "# The tested versions; `python -m nox -s lock` writes this file."
    (ROOT / "constraints.txt").write_text("\n".join([header, *pins, ""]))
