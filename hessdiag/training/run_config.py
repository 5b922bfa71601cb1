"""All that a run is made of, and its form as TOML."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, replace
from typing import Annotated, Any

from msgspec import Struct

from hessdiag import codec, seeds
from hessdiag.settings import check, option
from hessdiag.training import methods
from hessdiag.training.methods import Method
from hessdiag.training.recipes import Recipe


@dataclass(frozen=True)
class Config:
    """All that a run is made of; two runs of one configuration are equal, bit for bit."""

    recipe: Recipe  # network, data, optimiser, schedule, method
    seed: Annotated[int, option("Of all randomness.", ge=seeds.LEAST, le=seeds.MOST)] = 0
    num_samples: Annotated[int | None, option("Training examples drawn; None for all.", ge=1)] = (
        None
    )
    data_root: str | None = None  # of torchvision's data sets
    save_every: Annotated[
        int | None, option("Steps between states; None for one an epoch.", ge=1)
    ] = None
    on_nonfinite: Annotated[
        str, option("For a step whose loss or gradient is none.", choices=("stop", "skip"))
    ] = "stop"
    log_every: Annotated[
        int | None, option("Steps between rows of steps.jsonl; None for none.", ge=1)
    ] = None
    track: tuple[str, ...] = ()  # metrics to measure, see hessdiag.training.tracking.Tracker
    track_every: Annotated[
        int, option("Epochs between measurements; the last is measured always.", ge=1)
    ] = 1
    pac_bayes: bool = False  # whether the report is to hold the PAC-Bayes bound
    compile: bool = False  # whether torch.compile is to translate it, for methods of first order

    def __post_init__(self) -> None:
        check(self)

    @property
    def digest(self) -> str:
        """SHA-256 of the configuration."""
        return hashlib.sha256(self.to_toml().encode()).hexdigest()

    @property
    def method(self) -> Method:
        """How a step is taken."""
        return self.recipe.method

    def to_toml(self) -> str:
        """Lay the configuration out; None is left out."""
        own, recipe = _fields(self), _fields(self.recipe)
        del own["recipe"], recipe["method"]
        sections = {"recipe": recipe, "method": {"name": self.method.name, **self.method.values}}
        lines = [f"{name} = {_toml(value)}" for name, value in own.items() if value is not None]
        for section, fields in sections.items():
            lines += ["", f"[{section}]"]
            lines += [
                f"{key} = {_toml(value)}" for key, value in fields.items() if value is not None
            ]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> Config:
        """Read what ``to_toml`` wrote, or that of 0.1, where the method stood in three places.

        Raises:
            InputError: it is no such thing, or out of range.
        """
        what = "the run's configuration config.toml"
        raw = codec.decode_toml(dict[str, Any], text, what=what)
        tables = codec.convert(_Tables, raw, what=what)
        fields, options = {"activation": None, **tables.recipe}, tables.method
        name = tables.regulariser if options is None else options.pop("name", None)
        name = codec.convert(str, name, what=f"{what}: the method's name")
        if options is None:
            method = methods.remembered(name, tables.strengths)
            fields = {name: fields[name] for name in fields.keys() - {"regulariser", "strengths"}}
        else:
            method = codec.convert(methods.find(name), options, what=f"{what}: method", strict=True)
        recipe = codec.convert(Recipe, fields, what=f"{what}: recipe", strict=True)
        own = {name: raw[name] for name in raw.keys() - set(_Tables.__struct_fields__)}
        own["recipe"] = replace(recipe, method=method)
        return codec.convert(cls, own, what=what, strict=True)


class _Tables(Struct):
    """The tables of the file; without ``method``, those of 0.1."""

    recipe: dict[str, Any]
    method: dict[str, Any] | None = None
    regulariser: str | None = None
    strengths: dict[str, Any] = {}


def _toml(value: Any) -> str:
    """Write a string, number, truth value or list of them; JSON's forms are TOML's, too."""
    text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
