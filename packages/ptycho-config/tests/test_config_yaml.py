"""Settings files: what is read, what is refused, and that what is written reads back."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ptychoconfig.errors import ConfigError
from ptychoconfig.resolve import Resolved, resolve
from ptychoconfig.schema import SECTIONS
from ptychoconfig.yaml_files import (
    json_schema,
    read_config,
    resolved_yaml,
    template,
    write_resolved,
)

WriteFile = Callable[[str], Path]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 1e-3),
        ("1.0e-3", 1e-3),
        ("1E6", 1e6),
        (".5", 0.5),
        ("-3", -3),
        ("+7", 7),
        ("010", 10),
        ("null", None),
        ("~", None),
        ("", None),
        ("true", True),
        ("False", False),
        ("off", "off"),
        ("'1e-3'", "1e-3"),
        ('"null"', "null"),
        ("1:30", "1:30"),
        ("15min", "15min"),
        ("2020-01-01", "2020-01-01"),
    ],
)
def test_plain_text_means_what_yaml_1_2_says(
    text: str, expected: object, settings_file: WriteFile
) -> None:
    found = read_config(settings_file(f"training:\n  learning_rate: {text}\n"))
    value = found["training"]["learning_rate"]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("text", ["", "# nothing\n", "null", "training:\n", "sources: {a.b: c}"])
def test_files_that_set_nothing(text: str, settings_file: WriteFile) -> None:
    assert not any(read_config(settings_file(text)).values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {epochs: 3, epochs: 4}", "line 1: expected 'epochs' once"),
        ("model: {N: 64}\ndata: {}\nmodel: {N: 32}", "line 3: expected 'model' once"),
        ("training:\n  epocs: 3", "line 2: in training: .*did you mean 'epochs'"),
        ("trainin: {epochs: 3}", "line 1: in sections: .*did you mean 'training'"),
        ("training: {gridsize: 2}", "belongs to model"),
        ("epochs: 3", "belongs to training"),
        ("model: {C: 4}", "derived.*--gridsize"),
        ("training: [1, 2]", "expected `key: value` lines for training, found a list"),
        ("training: 3", "found a single value"),
        ("just text", "found a single value"),
        ("training: {epochs: [1, 2]}", "epochs: expected an integer ≥ 1 or null, found a list"),
        ("training: {epochs: {a: 2}}", "found a mapping"),
        ("training: {epochs: !!python/name:os.system x}", "found the tag"),
        ("training: {epochs: 3", "expected YAML"),
        ("a: b: c", "expected YAML"),
        ("a: 1\n---\nb: 2", "expected YAML"),
        ("[" * 50_000, "expected YAML"),
        ("? [a, b]\n: 3", "found 'a list or mapping'"),
    ],
)
def test_what_is_refused(text: str, message: str, settings_file: WriteFile) -> None:
    path = settings_file(text)
    with pytest.raises(ConfigError, match=message) as refusal:
        read_config(path)
    assert str(path) in str(refusal.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wts.h5.zip"
    path.write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(ConfigError, match="expected YAML"):
        read_config(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config .*nothing\.yaml: expected a readable file"):
        read_config(tmp_path / "nothing.yaml")


def _values(declared: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that a field accepts, from its declaration."""
    if "anyOf" in declared:
        return st.one_of([_values(case) for case in declared["anyOf"]])
    if "enum" in declared:
        return st.sampled_from(declared["enum"])
    if declared["type"] == "integer":
        step = declared.get("multipleOf", 1)
        high = declared.get("maximum", declared.get("exclusiveMaximum", 10**9 + 1) - 1)
        return st.integers(declared["minimum"] // step, high // step).map(lambda n: n * step)
    if declared["type"] == "number":
        return st.floats(
            declared.get("minimum", declared.get("exclusiveMinimum")),
            declared.get("maximum", declared.get("exclusiveMaximum")),
            exclude_min="exclusiveMinimum" in declared,
            exclude_max="exclusiveMaximum" in declared,
            allow_nan=False,
            allow_infinity=False,
        )
    if "examples" in declared:
        return st.sampled_from(declared["examples"])
    return {"boolean": st.booleans(), "null": st.none(), "string": st.text()}[declared["type"]]


def _settings(section: str) -> st.SearchStrategy[dict[str, Any]]:
    declared = SECTIONS[section].model_json_schema()["properties"]
    return st.fixed_dictionaries({}, optional={f: _values(d) for f, d in declared.items()})


@st.composite
def _resolved(draw: st.DrawFn) -> Resolved:
    flags: dict[str, Any] = {}
    for section in SECTIONS:
        flags |= draw(_settings(section))
    weights = [flags.get(f"{name}_weight") for name in ("poisson", "amplitude", "mae")]
    if weights[1] == 0 and not any(weights):
        flags["amplitude_weight"] = 1.0
    for shared in ("nphotons", "batch_size"):  # a flag must suit every section that has it
        if flags.get(shared, 1) is None:
            del flags[shared]
    if flags.get("model_type") in ("supervised", "distilled"):
        flags["probe_trainable"] = False
    if flags.get("probe") == "bundle":  # of inference alone
        del flags["probe"]
    return resolve(list(SECTIONS), flags=flags, environment={})


@given(resolved=_resolved())
@hypothesis_settings(max_examples=60, deadline=None)
def test_a_resolved_file_gives_the_same_settings(
    resolved: Resolved, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "config.resolved.yaml"
    write_resolved(path, resolved)
    again = resolve(list(SECTIONS), environment={}, config_file=path)
    assert again.sections == resolved.sections
    assert set(again.sources.values()) == {f"file {path}"}
    write_resolved(path, Resolved(again.sections, resolved.sources))
    assert path.read_text(encoding="utf-8") == resolved_yaml(resolved)


@given(resolved=_resolved())
@hypothesis_settings(max_examples=30, deadline=None)
def test_any_yaml_reader_understands_a_resolved_file(resolved: Resolved) -> None:
    expected = {name: model.model_dump(mode="json") for name, model in resolved.sections.items()}
    assert yaml.safe_load(resolved_yaml(resolved)) == expected


def test_a_resolved_file_says_where_values_came_from(tmp_path: Path) -> None:
    environment = {"PTYCHO_LEARNING_RATE": "1e-5"}
    resolved = resolve(["training"], flags={"epochs": 3}, environment=environment)
    path = tmp_path / "config.resolved.yaml"
    write_resolved(path, resolved)
    text = path.read_text(encoding="utf-8")
    assert re.search(r"^  epochs: 3 +# flag$", text, re.M)
    assert re.search(r"^  learning_rate: 1.0e-05 +# environment PTYCHO_LEARNING_RATE$", text, re.M)
    assert re.search(r"^  neighbor_count: 18 +# architecture unrolled$", text, re.M)
    assert re.search(r"^  seed: 42 +# default$", text, re.M)


def test_a_source_with_a_line_break_stays_a_comment() -> None:
    resolved = resolve(["inference"], environment={})
    sources = dict.fromkeys(resolved.sources, "file a\nb.yaml")
    assert r"# file a\nb.yaml" in resolved_yaml(Resolved(resolved.sections, sources))


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    resolved = resolve(["inference"], environment={})
    target = tmp_path / "config.resolved.yaml"
    target.mkdir()
    with pytest.raises(ConfigError, match="--output-dir"):
        write_resolved(target, resolved)
    assert list(tmp_path.iterdir()) == [target]


def test_writing_into_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing.*--output-dir"):
        write_resolved(tmp_path / "missing" / "x.yaml", resolve(["inference"], environment={}))


def test_the_template_sets_nothing(settings_file: WriteFile) -> None:
    path = settings_file(template(list(SECTIONS)))
    assert read_config(path) == {name: {} for name in SECTIONS}


def test_the_template_without_its_marks_is_the_defaults(settings_file: WriteFile) -> None:
    path = settings_file(re.sub(r"^  #(?=\w)", "  ", template(list(SECTIONS)), flags=re.M))
    resolved = resolve(list(SECTIONS), environment={}, config_file=path)
    assert set(resolved.sources.values()) == {f"file {path}"}
    assert resolved.sections == {name: model() for name, model in SECTIONS.items()}


def test_the_template_keeps_to_the_sections_asked_for() -> None:
    assert yaml.safe_load(template(["simulation"])) == {"simulation": None}


def test_the_json_schema_describes_every_setting() -> None:
    schema = json_schema()
    json.dumps(schema, allow_nan=False)
    assert schema["properties"].keys() == {*SECTIONS, "sources"}
    assert schema["additionalProperties"] is False
    for name, model in SECTIONS.items():
        section = schema["properties"][name]
        assert section["properties"].keys() == model.model_fields.keys()
        assert section["additionalProperties"] is False
        assert not section.get("required")
        for field, declared in section["properties"].items():
            assert declared["description"], field
            assert "default" in declared, field
            assert declared.keys() & {"type", "anyOf"}, field
            assert not declared.keys() - _KEYWORDS, field


_KEYWORDS = {
    *("title", "description", "default", "type", "anyOf", "enum", "multipleOf"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
