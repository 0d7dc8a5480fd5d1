"""Which source decides, and that each value remembers its own."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptychoconfig.errors import BundleError, ConfigError, DataError
from ptychoconfig.resolve import Resolved, Source, resolve
from ptychoconfig.schema import ARCHITECTURE_DEFAULTS, SECTIONS

WriteFile = Callable[[str], Path]


def value(resolved: Resolved, key: str) -> object:
    section, field = key.split(".")
    return getattr(resolved.sections[section], field)


def test_the_strongest_source_decides(settings_file: WriteFile) -> None:
    """Add the sources one by one, the weakest first; each takes over."""
    path = settings_file("model: {gridsize: 4}")
    given: dict[str, Any] = {"environment": {}}
    for name, content, expected, source in [
        ("flags", {"architecture": "new"}, 3, "default"),
        ("flags", {"architecture": "cnn"}, 1, "architecture cnn"),
        ("derived", {"gridsize": 2}, 2, "data"),
        ("config_file", path, 4, f"file {path}"),
        ("environment", {"PTYCHO_GRIDSIZE": "5"}, 5, "environment PTYCHO_GRIDSIZE"),
        ("flags", {"architecture": "cnn", "gridsize": 6}, 6, "flag"),
    ]:
        given[name] = content
        resolved = resolve(["model"], **given)
        assert value(resolved, "model.gridsize") == expected
        assert resolved.sources["model.gridsize"] == source


@pytest.mark.parametrize("architecture", ARCHITECTURE_DEFAULTS)
def test_defaults_of_an_architecture_and_their_source(architecture: str) -> None:
    flags = {"architecture": architecture}
    resolved = resolve(["model", "training"], flags=flags, environment={})
    for section, fields in ARCHITECTURE_DEFAULTS[architecture].items():
        for field, default in fields.items():
            assert value(resolved, f"{section}.{field}") == default
            assert resolved.sources[f"{section}.{field}"] == f"architecture {architecture}"


def test_cnn_has_the_originals_groups() -> None:
    resolved = resolve(["model", "training"], flags={"architecture": "cnn"}, environment={})
    assert value(resolved, "model.gridsize") == 1
    assert value(resolved, "training.neighbor_count") == 4


@pytest.mark.parametrize("where", ["environment", "file"])
def test_the_architecture_may_come_from_anywhere(where: str, settings_file: WriteFile) -> None:
    environment = {"PTYCHO_ARCHITECTURE": "cnn"} if where == "environment" else {}
    path = settings_file("model: {architecture: cnn}") if where == "file" else None
    resolved = resolve(["training"], environment=environment, config_file=path)
    assert value(resolved, "training.neighbor_count") == 4


def test_every_value_has_a_source() -> None:
    resolved = resolve(list(SECTIONS), environment={})
    fields = {f"{name}.{field}" for name, model in SECTIONS.items() for field in model.model_fields}
    assert resolved.sources.keys() == fields
    assert set(resolved.sources.values()) == {"default", "architecture unrolled"}


def test_derived_values_name_their_source() -> None:
    given = {"derived": {"N": 128}, "derived_source": Source.BUNDLE}
    resolved = resolve(["model"], environment={}, **given)  # type: ignore[arg-type]
    assert value(resolved, "model.N") == 128
    assert resolved.sources["model.N"] == "bundle"


def test_the_environment_is_the_process_own_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTYCHO_EPOCHS", "7")
    assert value(resolve(["training"]), "training.epochs") == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1e-3", 1e-3), ("0.5", 0.5), ("2", 2.0)],
)
def test_environment_text_becomes_a_number(text: str, expected: float) -> None:
    resolved = resolve(["training"], environment={"PTYCHO_LEARNING_RATE": text})
    assert value(resolved, "training.learning_rate") == expected


def test_environment_null_unsets_and_empty_counts_as_unset() -> None:
    environment = {"PTYCHO_GRADIENT_CLIP_VAL": "null", "PTYCHO_EPOCHS": ""}
    resolved = resolve(["training"], environment=environment)
    assert value(resolved, "training.gradient_clip_val") is None
    assert resolved.sources["training.gradient_clip_val"] == "environment PTYCHO_GRADIENT_CLIP_VAL"
    assert resolved.sources["training.epochs"] == "default"


@pytest.mark.parametrize(("text", "expected"), [("true", True), ("off", False), ("1", True)])
def test_environment_text_becomes_a_truth_value(text: str, expected: bool) -> None:
    resolved = resolve(["training"], environment={"PTYCHO_OVERSAMPLING": text})
    assert value(resolved, "training.oversampling") is expected


def test_a_variable_of_another_command_is_left_alone() -> None:
    environment = {"PTYCHO_DEFOCUS_RAD": "3", "PTYCHO_PTYCHI_PYTHON": "python3", "HOME": "x"}
    assert "flag" not in resolve(["training"], environment=environment).sources.values()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"flags": {"epoch": 3}}, "--epoch: .* did you mean 'epochs'"),
        ({"flags": {"learnin_rate": 3}}, "--learnin-rate: .* did you mean 'learning_rate'"),
        ({"flags": {"merge": "scan"}}, "--merge: .* belongs to inference"),
        ({"environment": {"PTYCHO_EPOCS": "3"}}, "PTYCHO_EPOCS: .* did you mean 'PTYCHO_EPOCHS'"),
        ({"environment": {"PTYCHO_ZZZZZZ": "3"}}, "PTYCHO_ZZZZZZ: .*`ptycho config init`"),
        ({"flags": {"C": 4}}, "--C: .*derived.*--gridsize"),
        ({"environment": {"PTYCHO_C": "4"}}, "PTYCHO_C: .*derived.*--gridsize"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(
    given: dict[str, dict[str, str]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(["model", "training"], **{"environment": {}, **given})  # type: ignore[arg-type]


def test_bad_values_name_variable_and_flag() -> None:
    with pytest.raises(ConfigError, match=r"PTYCHO_EPOCHS \(flag --epochs\): .*found '0'; .*unset"):
        resolve(["training"], environment={"PTYCHO_EPOCHS": "0"})


def test_bad_values_name_file_key_and_flag(settings_file: WriteFile) -> None:
    path = settings_file("training: {learning_rate: -1}")
    place = re.escape(f"{path}: training.learning_rate (flag --learning-rate): expected")
    with pytest.raises(ConfigError, match=place + ".*found -1; correct it in the file"):
        resolve(["training"], environment={}, config_file=path)


def test_sections_of_other_commands_are_checked_too(settings_file: WriteFile) -> None:
    path = settings_file("simulation: {n_patterns: 0}\ntraining: {epochs: 3}")
    with pytest.raises(ConfigError, match=r"simulation\.n_patterns"):
        resolve(["training"], environment={}, config_file=path)


def test_sections_of_other_commands_are_left_alone(settings_file: WriteFile) -> None:
    path = settings_file("simulation: {n_patterns: 9}\ntraining: {epochs: 3}")
    resolved = resolve(["training"], environment={}, config_file=path)
    assert list(resolved.sections) == ["training"]
    assert value(resolved, "training.epochs") == 3


@pytest.mark.parametrize(
    ("source", "error"), [(Source.DATA, DataError), (Source.BUNDLE, BundleError)]
)
def test_a_bad_derived_value_is_the_fault_of_its_source(
    source: Source, error: type[Exception]
) -> None:
    with pytest.raises(error, match=f"model.N of the {source}: expected an even integer"):
        resolve(["model"], environment={}, derived={"N": 33}, derived_source=source)


def test_a_fact_may_be_repeated_but_not_changed(settings_file: WriteFile) -> None:
    facts = {"derived": {"N": 128}, "fixed": True, "environment": {}}
    path = settings_file("model: {N: 128}")
    resolved = resolve(["model"], config_file=path, **facts)  # type: ignore[arg-type]
    assert value(resolved, "model.N") == 128
    path = settings_file("model: {N: 64}")
    with pytest.raises(ConfigError, match=r"model\.N .*expected 128, as the data has it, found 64"):
        resolve(["model"], config_file=path, **facts)  # type: ignore[arg-type]
