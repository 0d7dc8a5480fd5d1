"""Where the value of each setting comes from.

Precedence: flag > environment > YAML file > value from the data or the bundle > default of the
architecture > default.  Every value remembers its source.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from ptychoconfig.describe import (
    ENVIRONMENT_PREFIX,
    environment_name,
    expected,
    flag_name,
    suggestion,
    unknown_setting,
)
from ptychoconfig.errors import BundleError, ConfigError, DataError, PtychoError
from ptychoconfig.schema import ARCHITECTURE_DEFAULTS, SECTIONS, ModelConfig, Section
from ptychoconfig.yaml_files import read_config

__all__ = ["RESERVED_VARIABLES", "Resolved", "Source", "flag_name", "resolve"]

RESERVED_VARIABLES = frozenset({"PTYCHO_PTYCHI_PYTHON"})
"""Environment variables that begin like ours and are no settings."""

_NOTHING: Mapping[str, object] = MappingProxyType({})


class Source(StrEnum):
    """Kinds of places that a value comes from, the strongest first."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DATA = "data"
    BUNDLE = "bundle"
    ARCHITECTURE = "architecture"
    DEFAULT = "default"


@dataclass(frozen=True)
class Resolved:
    """Settings with the source of each.

    Args:
        sections: section name → settings.
        sources: ``training.epochs`` → ``flag``, ``environment PTYCHO_EPOCHS``,
            ``file run.yaml``, ``data``, ``bundle``, ``architecture unrolled`` or ``default``.
    """

    sections: Mapping[str, Section]
    sources: Mapping[str, str]

    def entries(self) -> dict[str, dict[str, object]]:
        """``training.epochs`` → its value, as JSON has it, and its source."""
        return {
            key: {"value": value, "source": self.sources[key]}
            for section, model in self.sections.items()
            for field, value in model.model_dump(mode="json").items()
            for key in (f"{section}.{field}",)
        }


@dataclass(frozen=True)
class _Setting:
    """A value before it is checked, and who gave it."""

    value: object
    source: Source
    detail: str = ""  # which variable, file or architecture

    @property
    def label(self) -> str:
        """The source as it is recorded."""
        return f"{self.source} {self.detail}".strip()

    def place(self, section: str, field: str) -> str:
        """Where a person finds the value; the flag that would set it is always named."""
        flag = flag_name(field)
        return {
            Source.FLAG: flag,
            Source.ENVIRONMENT: f"{self.detail} (flag {flag})",
            Source.FILE: f"{self.detail}: {section}.{field} (flag {flag})",
        }.get(self.source, f"{section}.{field} of the {self.source}")


_REMEDIES = {
    Source.FLAG: "give such a value, or leave the flag out",
    Source.ENVIRONMENT: "correct or unset the variable",
    Source.FILE: "correct it in the file",
    Source.DATA: "change the data, for example by cropping or padding the patterns",
    Source.BUNDLE: "train the bundle anew",
}
_ERRORS: dict[Source, type[PtychoError]] = {Source.DATA: DataError, Source.BUNDLE: BundleError}

_Settings = dict[str, dict[str, _Setting]]  # section → field → setting

_DEFAULT = _Setting(None, Source.DEFAULT)


def resolve(
    section_names: Sequence[str],
    *,
    flags: Mapping[str, object] = _NOTHING,
    environment: Mapping[str, str] | None = None,
    config_file: Path | None = None,
    derived: Mapping[str, object] = _NOTHING,
    derived_source: Source = Source.DATA,
    fixed: bool = False,
    suggested: Mapping[str, object] = _NOTHING,
) -> Resolved:
    """Resolve the settings of some sections.

    Args:
        section_names: sections that the command needs.
        flags: field → value, only what the user set.
        environment: variables by name; default ``os.environ``. An empty one counts as unset.
        config_file: YAML file of settings; it may hold further sections, which are checked too.
        derived: field → value, known from the data or the bundle.
        derived_source: which of the two.
        fixed: derived values are facts, which a stronger source may repeat but not change.
        suggested: field → value, defaults that go before those of the architecture.

    Raises:
        ConfigError: an unknown name, a value out of bounds, or one that contradicts a fact, with
            the place it stands in.
        DataError, BundleError: a derived value is out of bounds.
    """
    known = [field for name in section_names for field in SECTIONS[name].model_fields]
    for field in flags:
        if field not in known:
            raise ConfigError(f"{flag_name(field)}: {unknown_setting(field, known)}")
    from_file = _from_file(config_file)
    for name in from_file.keys() - set(section_names):
        _build(name, from_file[name])
    settings: _Settings = {name: {} for name in SECTIONS}
    for layer in (  # the weakest first
        _spread({field: _Setting(value, derived_source) for field, value in derived.items()}),
        from_file,
        _spread(_from_environment(os.environ if environment is None else environment)),
        _spread({field: _Setting(value, Source.FLAG) for field, value in flags.items()}),
    ):
        for name, fields in layer.items():
            settings[name].update(fields)
    _fill_architecture_defaults(settings, suggested)
    sections = {name: _build(name, settings[name]) for name in section_names}
    if fixed:
        _refuse_contradictions(sections, settings, derived, derived_source)
    sources = {
        f"{name}.{field}": settings[name].get(field, _DEFAULT).label
        for name in section_names
        for field in SECTIONS[name].model_fields
    }
    return Resolved(sections, sources)


def _spread(flat: Mapping[str, _Setting]) -> _Settings:
    """Give each setting to every section that has its field."""
    return {
        name: {field: flat[field] for field in model.model_fields if field in flat}
        for name, model in SECTIONS.items()
    }


def _from_file(path: Path | None) -> _Settings:
    if path is None:
        return {}
    return {
        name: {field: _Setting(value, Source.FILE, str(path)) for field, value in fields.items()}
        for name, fields in read_config(path).items()
    }


def _from_environment(environment: Mapping[str, str]) -> dict[str, _Setting]:
    fields = {
        environment_name(field): field
        for model in SECTIONS.values()
        for field in model.model_fields
    }
    found = {}
    for name in sorted(environment):
        if not name.startswith(ENVIRONMENT_PREFIX) or name in RESERVED_VARIABLES:
            continue
        if name not in fields:
            raise ConfigError(_unknown_variable(name, fields))
        if text := environment[name]:
            value = None if text == "null" else text
            found[fields[name]] = _Setting(value, Source.ENVIRONMENT, name)
    return found


def _unknown_variable(name: str, fields: Mapping[str, str]) -> str:
    if name == environment_name("C"):
        return f"{name}: {unknown_setting('C', ())}"
    meant = suggestion(
        name.removeprefix(ENVIRONMENT_PREFIX).lower(), fields.values(), environment_name
    )
    return f"{name}: expected a variable that names a setting, found none of this name{meant}"


def _fill_architecture_defaults(settings: _Settings, suggested: Mapping[str, object]) -> None:
    default = _Setting(ModelConfig.model_fields["architecture"].default, Source.DEFAULT)
    architecture = str(settings["model"].get("architecture", default).value)
    for name, fields in ARCHITECTURE_DEFAULTS.get(architecture, {}).items():
        mine = {field: suggested[field] for field in SECTIONS[name].model_fields.keys() & suggested}
        for field, value in (fields | mine).items():
            setting = _Setting(value, Source.ARCHITECTURE, architecture)
            settings[name].setdefault(field, setting)


def _build(name: str, settings: Mapping[str, _Setting]) -> Section:
    values = {field: setting.value for field, setting in settings.items()}
    try:
        return SECTIONS[name].model_validate(values)
    except ValidationError as error:
        raise _explain(name, settings, error) from error


def _explain(section: str, settings: Mapping[str, _Setting], error: ValidationError) -> PtychoError:
    """One line per value that is refused; one for a rule across settings."""
    lines: list[str] = []
    kind: type[PtychoError] = ConfigError
    for found in error.errors():
        if not found["loc"]:
            lines.append(f"{section}: {found['ctx']['error']}")
            continue
        field = str(found["loc"][0])
        setting = settings[field]
        kind = _ERRORS.get(setting.source, kind)
        lines.append(
            f"{setting.place(section, field)}: expected {expected(section, field)}, "
            f"found {setting.value!r}; {_REMEDIES[setting.source]}"
        )
    return kind("\n".join(lines))


def _refuse_contradictions(
    sections: Mapping[str, Section],
    settings: _Settings,
    facts: Mapping[str, object],
    fact_source: Source,
) -> None:
    for name, model in sections.items():
        for field in model.model_fields_set & facts.keys():
            value, setting = getattr(model, field), settings[name][field]
            if value != facts[field]:
                raise ConfigError(
                    f"{setting.place(name, field)}: expected {facts[field]!r}, as the "
                    f"{fact_source} has it, found {value!r}; leave it out"
                )
