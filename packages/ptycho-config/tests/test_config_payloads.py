"""What backends are given."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from ptychoconfig.errors import BundleError, ConfigError, DataError
from ptychoconfig.payloads import (
    InferencePayload,
    TrainingPayload,
    create_inference_payload,
    create_training_payload,
    infer_probe_size,
)
from ptychoconfig.schema import (
    ARCHITECTURE_DEFAULTS,
    NETWORKS_OF,
    ExecutionConfig,
    InferenceConfig,
    ModelConfig,
)
from ptychoconfig.yaml_files import write_resolved

MODEL = ModelConfig(N=128, gridsize=2).model_dump(mode="json")


def train(**flags: object) -> TrainingPayload:
    return create_training_payload(N=64, flags=flags, environment={})


def infer(**flags: object) -> InferencePayload:
    return create_inference_payload(bundle_config={"model": MODEL}, flags=flags, environment={})


@pytest.mark.parametrize("probe", [None, (64, 64), (3, 64, 64)])
def test_n_is_the_side_of_the_patterns(probe: tuple[int, ...] | None) -> None:
    assert infer_probe_size((10, 64, 64), probe, "scan.npz") == 64


@pytest.mark.parametrize(
    ("patterns", "probe"),
    [
        ((64, 64), None),
        ((10, 64, 32), None),
        ((10, 64, 64, 1), None),
        ((10, 65, 65), None),
        ((10, 16, 16), None),
        ((10, 2048, 2048), None),
        ((10, 64, 64), (32, 32)),
        ((10, 64, 64), (64,)),
        ((10, 64, 64), (64, 64, 1)),
        ((10, 64, 64), (2, 1, 64, 64)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    patterns: tuple[int, ...], probe: tuple[int, ...] | None
) -> None:
    with pytest.raises(DataError, match=r"^scan\.npz: expected .* found .*; "):
        infer_probe_size(patterns, probe, "scan.npz")


def test_training_takes_n_from_the_data() -> None:
    payload = train(epochs=3)
    assert (payload.model.N, payload.training.epochs) == (64, 3)
    assert payload.sources["model.N"] == "data"
    assert payload.sources["training.epochs"] == "flag"


def test_training_refuses_a_contradicting_n() -> None:
    with pytest.raises(ConfigError, match="--N: expected 64, as the data has it, found 128"):
        train(N=128)


def test_training_refuses_data_out_of_bounds() -> None:
    with pytest.raises(DataError, match=r"model\.N of the data"):
        create_training_payload(N=33, flags={}, environment={})


def test_flags_of_another_network_are_refused_and_a_file_s_are_not(tmp_path: Path) -> None:
    refused = r"--fno-modes: expected --architecture fno or ffno or hybrid-resnet.*found cnn"
    with pytest.raises(ConfigError, match=refused):
        train(architecture="cnn", fno_modes=4)
    with pytest.raises(ConfigError, match=r"--n-filters-scale: .*found unrolled"):
        train(n_filters_scale=1)
    assert train(architecture="ffno", fno_modes=4).model.fno_modes == 4
    path = tmp_path / "settings.yaml"
    path.write_text("model: {architecture: cnn, fno_modes: 4}\n")
    create_training_payload(N=64, flags={}, environment={}, config_file=path)


def test_settings_of_networks_are_settings_and_networks() -> None:
    known = ModelConfig.model_fields | InferenceConfig.model_fields
    assert set(NETWORKS_OF) <= set(known)
    assert {name for names in NETWORKS_OF.values() for name in names} <= set(ARCHITECTURE_DEFAULTS)


def test_unrolled_makes_more_passes_than_in_training_and_others_none(tmp_path: Path) -> None:
    def passes(trained: int = 8, **flags: object) -> int:
        bundled = {"model": train(unrolled_steps=trained).model.model_dump()}
        payload = create_inference_payload(bundle_config=bundled, flags=flags, environment={})
        assert payload.model.unrolled_steps == trained
        return payload.applied_model.unrolled_steps

    assert (passes(), passes(passes=20), passes(2)) == (12, 20, 2)
    other = {"model": train(architecture="cnn").model.model_dump()}
    with pytest.raises(ConfigError, match=r"--passes: expected --architecture unrolled.*found cnn"):
        create_inference_payload(bundle_config=other, flags={"passes": 4}, environment={})


def test_a_resolved_file_makes_the_same_payload(tmp_path: Path) -> None:
    first = train(epochs=3, gridsize=2, max_time="2h", accelerator="cpu", n_subsample=9)
    path = tmp_path / "config.resolved.yaml"
    write_resolved(path, first.resolved())
    again = create_training_payload(N=64, flags={}, environment={}, config_file=path)
    assert again.resolved().sections == first.resolved().sections
    with pytest.raises(ConfigError, match=r"config\.resolved\.yaml: model\.N .*expected 128"):
        create_training_payload(N=128, flags={}, environment={}, config_file=path)


def test_a_training_file_serves_inference_with_its_bundle(tmp_path: Path) -> None:
    trained = create_training_payload(
        N=128, flags={"gridsize": 2, "accelerator": "cpu"}, environment={}
    )
    path = tmp_path / "config.resolved.yaml"
    write_resolved(path, trained.resolved())
    payload = create_inference_payload(
        bundle_config={"model": trained.model.model_dump(mode="json")},
        flags={},
        environment={},
        config_file=path,
    )
    assert payload.model == trained.model
    assert payload.execution.accelerator == "cpu"
    assert payload.sources["execution.accelerator"] == f"file {path}"


def test_inference_takes_the_model_from_the_bundle() -> None:
    payload = infer(merge="none")
    assert payload.model == ModelConfig(N=128, gridsize=2)
    assert {v for k, v in payload.sources.items() if k.startswith("model.")} == {"bundle"}
    assert payload.sources["inference.merge"] == "flag"
    assert payload.resolved().sources is payload.sources


@pytest.mark.parametrize(
    ("flags", "environment", "text"),
    [
        ({"gridsize": 3}, {}, ""),
        ({}, {"PTYCHO_GRIDSIZE": "3"}, ""),
        ({}, {}, "model: {gridsize: 3}"),
    ],
)
def test_nobody_changes_the_model_of_a_bundle(
    flags: dict[str, object],
    environment: dict[str, str],
    text: str,
    settings_file: Callable[[str], Path],
) -> None:
    with pytest.raises(ConfigError, match=r"gridsize.*expected 2, as the bundle has it, found 3"):
        create_inference_payload(
            bundle_config={"model": MODEL},
            flags=flags,
            environment=environment,
            config_file=settings_file(text),
        )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({}, "architecture, N, gridsize"),
        ({"architecture": "unrolled", "N": 64}, "say its model's gridsize"),
        (MODEL | {"wings": 2}, "found wings"),
        (MODEL | {"gridsize": 0}, "model.gridsize of the bundle"),
        (MODEL | {"N": "many"}, "model.N of the bundle"),
    ],
)
def test_a_bundle_whose_model_cannot_be_told_is_refused(
    model: dict[str, object], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        create_inference_payload(bundle_config={"model": model}, flags={}, environment={})


def test_a_bundle_older_than_a_setting_has_its_default() -> None:
    older = {key: MODEL[key] for key in ("architecture", "N", "gridsize")}
    payload = create_inference_payload(bundle_config={"model": older}, flags={}, environment={})
    assert payload.model == ModelConfig(N=128, gridsize=2)


@pytest.mark.parametrize("field", ExecutionConfig.model_fields)
def test_execution_never_reaches_the_model(field: str) -> None:
    choices = ExecutionConfig.model_json_schema()["properties"][field]
    other = {
        "boolean": not choices["default"],
        "integer": 3,
        "number": 7.5,
        "string": choices.get("enum", [""])[-1],
    }
    kind = choices.get("type") or choices["anyOf"][0]["type"]  # the latter for an optional one
    payload = train(**{field: other[kind]})
    assert payload.execution != ExecutionConfig()
    assert (payload.model, payload.data, payload.training) == (
        train().model,
        train().data,
        train().training,
    )


def test_payloads_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        train().model = ModelConfig()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        infer().model = ModelConfig()  # type: ignore[misc]
