"""What a backend is given: settings that were resolved once, and are not questioned again."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from ptychoconfig.describe import expected, flag_name
from ptychoconfig.errors import BundleError, ConfigError, DataError
from ptychoconfig.resolve import Resolved, Source, resolve
from ptychoconfig.schema import (
    NETWORKS_OF,
    DataConfig,
    ExecutionConfig,
    InferenceConfig,
    ModelConfig,
    PatternSide,
    Section,
    SolverConfig,
    TrainingConfig,
    distilled_defaults,
)

__all__ = [
    "InferencePayload",
    "SolverPayload",
    "TrainingPayload",
    "create_inference_payload",
    "create_solver_payload",
    "create_training_payload",
    "infer_probe_size",
]

_ESSENTIAL = ("architecture", "N", "gridsize")
"""What a bundle must say of its model; never guessed."""

AnySection = TypeVar("AnySection", bound=Section)


@dataclass(frozen=True)
class _Payload:
    """Some sections of settings, each under its name, and where each value came from."""

    sources: Mapping[str, str] = field(kw_only=True)

    def resolved(self) -> Resolved:
        """The settings by section, for ``yaml_files.write_resolved``."""
        names = [it.name for it in fields(self) if it.name != "sources"]
        return Resolved({name: getattr(self, name) for name in names}, self.sources)


@dataclass(frozen=True)
class TrainingPayload(_Payload):
    """Settings of a training run.

    Args:
        model, data, training: what changes the result, and is saved in the bundle.
        execution: how the run is made.
        sources: where each value came from, as in ``Resolved``.
    """

    model: ModelConfig
    data: DataConfig
    training: TrainingConfig
    execution: ExecutionConfig


@dataclass(frozen=True)
class InferencePayload(_Payload):
    """Settings of an inference run; the model's are those of the bundle.

    Args:
        model: what the network was trained as.
        inference: how it is applied.
        execution: how the run is made.
        sources: where each value came from, as in ``Resolved``.
    """

    model: ModelConfig
    inference: InferenceConfig
    execution: ExecutionConfig

    @property
    def applied_model(self) -> ModelConfig:
        """The model with as many passes as this run makes.

        Half as many again as in training bring low frequencies (docs/quality.md); fewer than six
        leave their momentum no time to settle, and stay as they are.
        """
        trained = self.model.unrolled_steps
        passes = self.inference.passes or (trained + trained // 2 if trained >= 6 else trained)
        return self.model.model_copy(update={"unrolled_steps": passes})


@dataclass(frozen=True)
class SolverPayload(_Payload):
    """Settings of a solver's run.

    Args:
        data: how the scan was read.
        solver: what changes the result.
        execution: how the run is made.
        sources: where each value came from, as in ``Resolved``.
    """

    data: DataConfig
    solver: SolverConfig
    execution: ExecutionConfig


def infer_probe_size(
    pattern_shape: tuple[int, ...], probe_shape: tuple[int, ...] | None, where: str
) -> int:
    """Find N from the patterns, and see that the probe agrees.

    Args:
        pattern_shape: (P, N, N).
        probe_shape: (M, N, N) or (N, N); None where there is no probe.
        where: the file, for the message.

    Raises:
        DataError: the patterns are not square stacks, N is out of bounds, or the probe is of
            another size.
    """
    if len(pattern_shape) != 3 or pattern_shape[1] != pattern_shape[2]:
        raise DataError(
            f"{where}: expected patterns of shape (P, N, N), found {tuple(pattern_shape)}; "
            "crop or pad them to squares"
        )
    side = pattern_shape[-1]
    try:
        TypeAdapter(PatternSide).validate_python(side)
    except ValidationError as error:
        raise DataError(
            f"{where}: expected patterns whose side N is {expected('model', 'N')}, found {side}; "
            "crop or pad them"
        ) from error
    if probe_shape is not None and (
        len(probe_shape) not in (2, 3) or tuple(probe_shape[-2:]) != (side, side)
    ):
        raise DataError(
            f"{where}: expected a probe of shape (M, {side}, {side}), the size of the patterns, "
            f"found {tuple(probe_shape)}; give the probe that belongs to them"
        )
    return side


def create_training_payload(
    *,
    N: int,  # noqa: N803 - the field's symbol
    flags: Mapping[str, object],
    environment: Mapping[str, str] | None = None,
    config_file: Path | None = None,
    bundle_config: Mapping[str, Mapping[str, object]] | None = None,
    patterns: int = sys.maxsize,
) -> TrainingPayload:
    """Resolve the settings of a training run.

    Args:
        N: side of the patterns in the data, from ``infer_probe_size``; nothing may contradict it.
        flags: field → value, only what the user set.
        environment: variables by name; default ``os.environ``.
        config_file: YAML file of settings.
        bundle_config: settings of the bundle to begin with, whose network it is to be; the groups
            may be others.
        patterns: of the smallest scan; a default group holds no more of those to train on.

    Raises:
        ConfigError: a setting is unknown, out of bounds, or contradicts N or the bundle; or a flag
            is of another network than the one to train.
        DataError: N is out of bounds.
        BundleError: the bundle's model is incomplete, unknown or out of bounds.
    """
    model_of = {} if bundle_config is None else _bundled_model(bundle_config)
    given = {k: v for k, v in model_of.items() if k not in ("N", "gridsize")}
    settle = partial(
        resolve,
        ("model", "data", "training", "execution"),
        flags=flags,
        environment=environment,
        config_file=config_file,
        derived={**given, "N": N},
        derived_source=Source.BUNDLE if given else Source.DATA,
        fixed=True,
    )
    resolved = settle()
    training = _section(resolved, TrainingConfig)
    free = resolved.sources["training.model_type"] == Source.DEFAULT
    teaches = given.get("architecture") == "unrolled" and not training.probe_trainable
    if training.model_type == "distilled" or (free and teaches):
        kept = patterns - int(patterns * training.val_fraction)
        resolved = settle(suggested={"model_type": "distilled", **distilled_defaults(kept)})
    model = _section(resolved, ModelConfig)
    _refuse_flags_of_others(model.architecture, flags)
    return TrainingPayload(
        model=model,
        data=_section(resolved, DataConfig),
        training=_section(resolved, TrainingConfig),
        execution=_section(resolved, ExecutionConfig),
        sources=resolved.sources,
    )


def create_inference_payload(
    *,
    bundle_config: Mapping[str, Mapping[str, object]],
    flags: Mapping[str, object],
    environment: Mapping[str, str] | None = None,
    config_file: Path | None = None,
) -> InferencePayload:
    """Resolve the settings of an inference run.

    Args:
        bundle_config: section name → field → value, as the bundle holds them; the model is taken
            from there, and nothing may contradict it.
        flags: field → value, only what the user set.
        environment: variables by name; default ``os.environ``.
        config_file: YAML file of settings.

    Raises:
        ConfigError: a setting is unknown, out of bounds, or contradicts the bundle's model; or a
            flag is of another network than the bundle's.
        BundleError: the bundle's model is incomplete, unknown or out of bounds.
    """
    resolved = resolve(
        ("model", "inference", "execution"),
        flags=flags,
        environment=environment,
        config_file=config_file,
        derived=_bundled_model(bundle_config),
        derived_source=Source.BUNDLE,
        fixed=True,
    )
    model = _section(resolved, ModelConfig)
    _refuse_flags_of_others(model.architecture, flags)
    return InferencePayload(
        model=model,
        inference=_section(resolved, InferenceConfig),
        execution=_section(resolved, ExecutionConfig),
        sources=resolved.sources,
    )


def create_solver_payload(
    *,
    flags: Mapping[str, object],
    environment: Mapping[str, str] | None = None,
    config_file: Path | None = None,
) -> SolverPayload:
    """Resolve the settings of a solver's run.

    Args:
        flags: field → value, only what the user set.
        environment: variables by name; default ``os.environ``.
        config_file: YAML file of settings.

    Raises:
        ConfigError: a setting is unknown or out of bounds.
    """
    resolved = resolve(
        ("data", "solver", "execution"),
        flags=flags,
        environment=environment,
        config_file=config_file,
    )
    return SolverPayload(
        data=_section(resolved, DataConfig),
        solver=_section(resolved, SolverConfig),
        execution=_section(resolved, ExecutionConfig),
        sources=resolved.sources,
    )


def solver_beside(
    payload: TrainingPayload | InferencePayload, config_file: Path | None = None
) -> SolverPayload:
    """Settings of the solver that finds a probe for a network, or polishes its image.

    Args:
        payload: how the scan was read (of a training), and how the run is made.
        config_file: YAML file of settings, the solver's among them.
    """
    solver = create_solver_payload(flags={}, config_file=config_file)
    data = payload.data if isinstance(payload, TrainingPayload) else solver.data
    return replace(solver, data=data, execution=payload.execution)


def _refuse_flags_of_others(architecture: str, flags: Mapping[str, object]) -> None:
    """Refuse a setting that the network to train or apply does not have, if a flag gives it.

    A file may hold the settings of every network.
    """
    for name in flags:
        networks = NETWORKS_OF.get(name, (architecture,))
        if architecture not in networks:
            raise ConfigError(
                f"{flag_name(name)}: expected --architecture {' or '.join(networks)}, which alone "
                f"has this setting, found {architecture}; leave it out, or take that network"
            )


def _bundled_model(bundle_config: Mapping[str, Mapping[str, object]]) -> Mapping[str, object]:
    """The whole model of a bundle; a setting newer than the bundle has its default."""
    model, known = bundle_config.get("model", {}), ModelConfig.model_fields
    if missing := [field for field in _ESSENTIAL if field not in model]:
        raise BundleError(
            f"expected the bundle to say its model's {', '.join(missing)}, found nothing; "
            "train the bundle anew"
        )
    if unknown := sorted(model.keys() - known.keys()):
        raise BundleError(
            f"expected a model with settings that this version knows, found {', '.join(unknown)} "
            "in the bundle; update ptycho, or train the bundle anew"
        )
    return {field: info.default for field, info in known.items()} | dict(model)


def _section(resolved: Resolved, kind: type[AnySection]) -> AnySection:
    """The section of a type; each command has one at most."""
    return next(model for model in resolved.sections.values() if isinstance(model, kind))
