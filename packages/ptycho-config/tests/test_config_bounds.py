"""Nonsense is refused, and the message says where it stands and which flag sets it."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from ptychoconfig.errors import ConfigError
from ptychoconfig.resolve import flag_name, resolve
from ptychoconfig.schema import SECTIONS, ModelConfig, Section, TrainingConfig

_BEYOND: dict[str, Callable[[Any], Any]] = {
    "minimum": lambda bound: bound - 1,
    "exclusiveMinimum": lambda bound: bound,
    "maximum": lambda bound: bound + 1,
    "exclusiveMaximum": lambda bound: bound,
    "multipleOf": lambda factor: 32 * factor + 1,
    "enum": "-".join,
    "type": lambda _: [],
}


def _cases() -> list[Any]:
    """A value just beyond each bound that any field declares, and one of the wrong type."""
    return [
        pytest.param(section, field, value, id=f"{field}={value}")
        for section, model in SECTIONS.items()
        for field, declared in model.model_json_schema()["properties"].items()
        for kind in declared.get("anyOf", [declared])
        for value in [_BEYOND[key](kind[key]) for key in _BEYOND if key in kind]
    ]


@pytest.mark.parametrize(("section", "field", "value"), _cases())
def test_value_beyond_any_bound_names_the_flag(section: str, field: str, value: Any) -> None:
    with pytest.raises(ConfigError) as refusal:
        resolve([section], flags={field: value}, environment={})
    message = str(refusal.value)
    assert message.startswith(f"{flag_name(field)}: expected ")
    assert f"found {value!r}; " in message


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("model", "N", 65),
        ("model", "N", 30),
        ("model", "N", 1026),
        ("model", "gridsize", 0),
        ("training", "poisson_weight", -0.1),
        ("training", "poisson_weight", 1.1),
        ("training", "mae_weight", float("nan")),
        ("training", "learning_rate", 0.0),
        ("training", "learning_rate", -1e-3),
        ("training", "learning_rate", float("inf")),
        ("training", "max_time", "soon"),
        ("training", "max_time", "-2h"),
        ("training", "max_time", 0),
        ("training", "epochs", True),
        ("training", "epochs", 1.5),
        ("training", "seed", 2**32),
        ("execution", "accelerator", "tpu"),
        ("simulation", "overlap", 1.0),
    ],
)
def test_nonsense_is_refused(section: str, field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{flag_name(field)}: expected ")):
        resolve([section], flags={field: value}, environment={})


def test_every_bad_value_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as refusal:
        resolve(["training"], flags={"epochs": 0, "batch_size": 0}, environment={})
    lines = str(refusal.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["--epochs", "--batch-size"]


def test_a_loss_without_any_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="--poisson-weight, --amplitude-weight and --mae-weight"):
        resolve(["training"], flags={"amplitude_weight": 0}, environment={})


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15min", 900), ("1.5 h", 5400), (7, 7)]
)
def test_durations_take_a_unit(text: object, seconds: float) -> None:
    [training] = resolve(["training"], flags={"max_time": text}, environment={}).sections.values()
    assert isinstance(training, TrainingConfig)
    assert training.max_time == seconds


@pytest.mark.parametrize("gridsize", [1, 2, 3])
def test_c_is_the_square_of_gridsize(gridsize: int) -> None:
    patterns = ModelConfig(gridsize=gridsize).C
    assert patterns == gridsize**2


def test_c_cannot_be_set() -> None:
    with pytest.raises(ValidationError):
        ModelConfig(C=4)  # type: ignore[call-arg]


@pytest.mark.parametrize("model", SECTIONS.values())
def test_sections_are_frozen(model: type[Section]) -> None:
    settings = model()
    field = next(iter(model.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, field, getattr(settings, field))


def test_every_setting_has_a_sentence_of_help() -> None:
    for model in SECTIONS.values():
        for field, info in model.model_fields.items():
            assert (info.description or "").endswith("."), field


def test_execution_shares_no_setting_with_what_changes_the_result() -> None:
    execution = SECTIONS["execution"].model_fields.keys()
    for name, model in SECTIONS.items():
        assert name == "execution" or not execution & model.model_fields.keys()


def test_no_two_settings_share_a_variable() -> None:
    fields = {field for model in SECTIONS.values() for field in model.model_fields}
    assert len({field.upper() for field in fields}) == len(fields)
