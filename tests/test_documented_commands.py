"""What the pages tell a reader to type exists."""

import doctest
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("packages/*/README.md")),
]


def _commands(page: Path) -> Iterator[list[str]]:
    """Words of each line of a code block that starts with ``ptycho``."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if match := re.match(r"(?:    |\$ |    \$ )?ptycho (.+)", line):
            yield shlex.split(match[1], comments=True)


def _documented() -> dict[str, set[str]]:
    """Command → flags that some page uses with it."""
    found: dict[str, set[str]] = {}
    for page in PAGES:
        for words in _commands(page):
            depth = 2 if words[0] == "config" else 1  # the one command with commands of its own
            name = " ".join(word for word in words[:depth] if not word.startswith("-"))
            flags = {word.partition("=")[0] for word in words if word.startswith("--")}
            found.setdefault(name, set()).update(flags)
    return found


@pytest.mark.parametrize(("command", "flags"), sorted(_documented().items()))
def test_the_commands_and_flags_of_the_pages_exist(
    command: str, flags: set[str], ptycho: Callable[..., object]
) -> None:
    help_text = ptycho(*command.split(), "--help").stdout
    known = set(re.findall(r"--[A-Za-z][\w-]*", help_text))
    assert flags <= known, f"ptycho {command}: the pages use {sorted(flags - known)}"


def test_the_readme_shows_the_workflow() -> None:
    assert {"convert", "inspect", "train", "infer"} <= _documented().keys()


def test_ci_runs_the_readme_s_own_test_command() -> None:
    command = "python -m pip install nox && python -m nox -s tests"
    for page in (ROOT / "README.md", ROOT / ".ci" / "run"):
        assert command in [line.strip() for line in page.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_pages_link_to_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


EXAMPLES = [page for page in PAGES if ">>> " in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_the_pages_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    failed, attempted = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert attempted > 0
    assert failed == 0
