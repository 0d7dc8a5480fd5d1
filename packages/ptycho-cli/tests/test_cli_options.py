"""Flags come from the declarations of the settings."""

import inspect
from importlib import import_module

import pytest

from ptychocli.options import given, settings_from
from ptychoconfig.describe import flag_name
from ptychoconfig.schema import SECTIONS


def _flags(*sections, without=()):
    @settings_from(sections, without=without)
    def command(own: int = 1, **settings: object) -> None: ...

    return inspect.signature(command).parameters


def test_every_field_but_those_left_out_has_a_flag():
    parameters = _flags("model", "training", without={"N"})
    fields = set(SECTIONS["model"].model_fields) | set(SECTIONS["training"].model_fields)
    assert set(parameters) == {"own"} | fields - {"N"}


@pytest.mark.parametrize("section", SECTIONS)
def test_flags_are_unset_by_default_and_explained(section):
    for name, field in SECTIONS[section].model_fields.items():
        option = _flags(section)[name].default
        assert option.default is None
        assert option.param_decls[0].startswith(flag_name(name))
        assert str(field.description) in option.help
        assert "[" not in option.help, "Typer would eat it as markup"


def test_help_shows_bounds_and_default():
    parameters = _flags("model", "training", "execution")
    assert parameters["gridsize"].default.help.endswith("(≥ 1 and ≤ 16; default 3)")
    assert parameters["seed"].default.help.endswith("default 42)")
    assert parameters["gradient_clip_val"].default.help.endswith("(> 0; default 1.0)")
    assert "> 0" in parameters["max_time"].default.help
    assert parameters["oversampling"].default.help.endswith("(default off)")
    assert parameters["deterministic"].default.param_decls == (
        "--deterministic/--no-deterministic",
    )


def test_given_keeps_what_was_set():
    settings = {"epochs": 3, "seed": None, "domain": "counts", "noise": False}
    assert given(settings) == {"epochs": 3, "domain": "counts", "noise": False}
    assert given(settings, "data") == {"domain": "counts"}


def test_commands_do_not_share_a_flag_between_two_sections():
    for command, sections in {
        "train": ("model", "data", "training", "execution"),
        "infer": ("inference", "data", "execution"),
        "reconstruct": ("solver", "data", "evaluation", "execution"),
        "simulate": ("simulation",),
    }.items():
        import_module(f"ptychocli.commands.{command}")
        names = [name for section in sections for name in SECTIONS[section].model_fields]
        assert len(names) == len(set(names))


@pytest.mark.parametrize("flag", ["--epochs", "--n-groups", "--logger", "--scheduler"])
def test_pretrain_refuses_what_only_a_training_on_scans_has(ptycho, tmp_path, flag):
    refused = ptycho("pretrain", "--output-dir", tmp_path / "out", flag, "3")
    assert refused.code == 2 and flag in refused.err
    assert not (tmp_path / "out").exists()
