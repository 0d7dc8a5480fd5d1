"""PtychoPINN's names, both ways."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptychoconfig.errors import ConfigError
from ptychoconfig.legacy import KEY_MAPPINGS, from_flat, modern_flags, to_flat
from ptychoconfig.schema import SECTIONS


def test_every_key_stands_for_a_setting_that_exists() -> None:
    for section, field in KEY_MAPPINGS.values():
        assert field in SECTIONS[section].model_fields
    assert len(set(KEY_MAPPINGS.values())) == len(KEY_MAPPINGS)


VALUES = st.one_of(st.integers(1, 9), st.floats(0.1, 1), st.booleans())


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(set(KEY_MAPPINGS) - {"gridsize"})), VALUES))
def test_a_flat_dictionary_survives_both_ways(flat: dict[str, Any]) -> None:
    assert to_flat(from_flat(flat).settings) == flat


def test_defaults_survive_both_ways() -> None:
    ours = {name: SECTIONS[name]().model_dump() for name in ("model", "data", "training")}
    flat = to_flat(ours)
    assert flat["object.big"] is True
    assert flat["C"] == flat["gridsize"] ** 2  # type: ignore[operator]
    assert flat["scheduler"] == "WarmupCosine"
    assert None not in flat.values()  # as in the original
    for section, fields in from_flat(flat).settings.items():
        for field, value in fields.items():
            assert ours[section][field] == value


def test_what_has_no_counterpart_is_given_back_with_the_reason() -> None:
    flat = {"gridsize": 2, "C": 4, "probe_scale": 4.0, "output_prefix": "out", "nepochs": None}
    found = from_flat(flat)
    assert found.settings == {"model": {"gridsize": 2}}
    assert "no other scale" in found.dropped["probe_scale"]
    assert found.elsewhere == {"output_prefix": "the flag --output-dir"}


@pytest.mark.parametrize(
    ("flat", "told"),
    [({"gridsize": 2, "C": 1}, r"C: expected 4"), ({"colour": 1}, "colour: expected a key")],
)
def test_contradictions_and_unknown_keys_are_refused(flat: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        from_flat(flat)


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        ("train", "--train_data_file a.npz", "a.npz"),
        ("train", "--train-data-file=a.npz", "a.npz"),
        ("train", "--test_data_file b.npz", ""),
        ("train", "--output_dir out", "--output-dir out"),
        ("train", "--max_epochs 3", "--epochs 3"),
        ("train", "--nepochs=3", "--epochs=3"),
        ("train", "--n_images 64", "--n-groups 64"),
        ("train", "--batch_size 16", "--batch-size 16"),
        ("train", "--device cpu", "--accelerator cpu"),
        ("train", "--torch-accelerator cuda", "--accelerator cuda"),
        ("train", "--torch-num-workers 2", "--num-workers 2"),
        ("train", "--torch_loss_mode mae", "--mae-weight 1 --amplitude-weight 0"),
        ("train", "--torch-loss-mode=poisson", "--poisson-weight 1 --amplitude-weight 0"),
        ("train", "--disable_mlflow", ""),
        ("train", "--probe-mask --probe-mask-sigma 1 --seed 3", "--seed 3"),
        ("train", "--no-probe-mask a.npz", "a.npz"),
        ("train", "--probe_mask False a.npz", "a.npz"),
        ("train", "--probe_scale 4 --gaussian_smoothing_sigma=0", ""),
        ("infer", "--probe_mask=True a.npz", "a.npz"),
        ("train", "--model_type supervised", "--model-type supervised"),
        ("train", "--disable-checkpointing", "--no-enable-checkpointing"),
        ("train", "--scheduler Exponential", "--scheduler exponential"),
        ("train", "--scheduler=Default", "--scheduler constant"),
        ("train", "--nll_weight 1", "--poisson-weight 1"),
        ("train", "--probe_trainable True", "--probe-trainable"),
        ("train", "--probe_big False", "--no-probe-big"),
        ("train", "--backend pytorch", "--backend torch"),
        ("train", "--enable_oversampling --n_groups 9", "--oversampling --n-groups 9"),
        ("infer", "--test_data t.npz --model_path run", "run t.npz"),
        ("infer", "--inference-batch-size 8", "--batch-size 8"),
        ("infer", "--debug --comparison_plot", ""),
        ("infer", "--n_images 32", "--n-subsample 32"),
        ("simulate", "out.npz --n_patterns 9", "out.npz --n-patterns 9"),
        ("train", "a.npz --epochs 3 -- --max_epochs", "a.npz --epochs 3 -- --max_epochs"),
    ],
)
def test_old_flags_become_ours(command: str, old: str, new: str) -> None:
    assert modern_flags(command, old.split())[0] == new.split()


def test_each_old_flag_is_told_once_and_ours_never() -> None:
    notes = modern_flags("train", ["--max_epochs", "1", "--max_epochs", "2", "--device", "cpu"])[1]
    assert [note.split()[0] for note in notes] == ["--max_epochs", "--device"]
    assert "use --epochs" in notes[0]
    ours = ["a.npz", "--epochs", "3", "--scheduler", "one-cycle", "--output-dir=x", "--N", "64"]
    ours += ["--no-oversampling", "--checkpoint-monitor", "train_loss"]
    assert modern_flags("train", ours) == (ours, [])
