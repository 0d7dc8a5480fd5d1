"""What importing the package costs, and that its page of settings is up to date."""

import subprocess
import sys
from pathlib import Path
from pkgutil import walk_packages

import pytest

import ptychoconfig
from ptychoconfig import legacy, migration
from ptychoconfig.errors import ConfigError
from ptychoconfig.reference import main, reference, updated
from ptychoconfig.resolve import flag_name
from ptychoconfig.schema import SECTIONS

DOCS = Path(__file__).parents[3] / "docs"


def _loaded(statement: str) -> set[str]:
    """Top-level modules that a fresh process has after a statement."""
    program = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", program]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_importing_the_package_loads_nothing_else() -> None:
    assert not _loaded("import ptychoconfig") & {"pydantic", "yaml", "numpy", "torch"}


def test_no_module_loads_a_numerical_framework() -> None:
    modules = [module.name for module in walk_packages(ptychoconfig.__path__, "ptychoconfig.")]
    loaded = _loaded("import " + ", ".join(modules))
    assert "pydantic" in loaded
    assert not loaded & {"numpy", "scipy", "h5py", "torch", "tensorflow", "lightning"}


@pytest.mark.parametrize("name", ptychoconfig.__all__)
def test_every_name_that_is_promised_exists(name: str) -> None:
    assert getattr(ptychoconfig, name).__name__ == name
    assert name in dir(ptychoconfig)


def test_no_other_name_exists() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        ptychoconfig.nonsense  # noqa: B018


def test_the_reference_holds_every_setting() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    expected = [(field, model) for model in SECTIONS.values() for field in model.model_fields]
    assert len(rows) == len(expected)
    for row, (field, model) in zip(rows, expected, strict=True):
        assert row.startswith(f"| `{field}` | `{flag_name(field)}` | ")
        assert str(model.model_fields[field].description) in row
        assert row.count(" | ") == 4


@pytest.mark.parametrize("name", ["configuration.md", "migrating.md"])
def test_the_tables_of_the_pages_are_up_to_date(name: str) -> None:
    if not (DOCS / name).exists():
        pytest.skip("the documentation is not part of this installation")
    page = (DOCS / name).read_text(encoding="utf-8")
    assert updated(page) == page, f"run: python -m ptychoconfig.reference docs/{name}"


def test_the_tables_of_old_names_have_them_all() -> None:
    keys, flags = migration.keys(), migration.flags()
    for key in (*legacy.KEY_MAPPINGS, *legacy.ARGUMENTS, *legacy.DROPPED):
        assert f"| `{key}` | " in keys
    for old, ours in legacy.RENAMED["train"].items():
        assert f"| `--{old}` | `--{ours}` |" in flags
    for command in ("train", "infer"):
        for old in (*legacy.POSITIONS[command], *legacy.WITHOUT_COUNTERPART[command]):
            assert f"| `--{old}` | " in flags


def test_the_reference_is_printed_or_written_into_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([])
    assert capsys.readouterr().out == reference()
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- settings begin -->\nstale\n<!-- settings end -->\nafter\n")
    main([str(page)])
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert reference() in text
    assert "stale" not in text


def test_a_page_without_marks_is_left_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- settings begin -->\nno end\n")
    with pytest.raises(ConfigError, match="settings end"):
        main([str(page)])
    assert page.read_text() == "<!-- settings begin -->\nno end\n"
