"""Write the references of commands and library from the code: ``python docs/generate.py``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import typer.main

import hessdiag
from hessdiag import results
from hessdiag.cli.app import app

HERE = Path(__file__).parent
_MADE = "<!-- made by docs/generate.py; change the code, not this file -->"


def commands() -> str:
    """Lay out every command with its arguments and options."""
    root: Any = typer.main.get_command(app)
    lines = ["# Commands", "", _MADE, "", inspect.cleandoc(root.help or ""), ""]
    for name, command in _tree("hessdiag", root):
        usage = " ".join(
            (f"[{p.name.upper()}]" if not p.required else p.name.upper())
            + ("…" if p.nargs == -1 else "")
            for p in command.params
            if p.param_type_name == "argument"
        )
        words = (name, *([usage] if usage else []), "[OPTIONS]")
        lines += [f"## `{name}`", "", f"    {' '.join(words)}", ""]
        lines += [inspect.cleandoc(command.help or ""), ""]
        if rows := [_row(p) for p in command.params if p.name != "help"]:
            lines += ["| option | meaning | default |", "|---|---|---|", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def _tree(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield the commands that run something, each with the words that call it."""
    for word, below in getattr(command, "commands", {}).items():
        own = name if (name, word) == ("hessdiag train", "run") else f"{name} {word}"
        if hasattr(below, "commands"):
            yield from _tree(own, below)
        else:
            yield own, below


def _row(parameter: Any) -> str:
    spelled = ", ".join((*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        spelled = parameter.name.upper()
    default = parameter.default
    known = default is not None and default != () and default is not False and default is not True
    text = (parameter.help or "").replace("|", "\\|").replace("<", "\\<")
    return f"| `{spelled}` | {text} | {f'`{default}`' if known and not callable(default) else ''} |"


def library() -> str:
    """Lay out every public name with its signature and docstring."""
    lines = ["# Library", "", _MADE, ""]
    lines += ["Public names are imported on first use: `import hessdiag` does not load torch.", ""]
    for name in hessdiag.__all__:
        value: Any = getattr(hessdiag, name)
        if callable(value):
            lines += [f"## `hessdiag.{name}`", "", *_signature(name, value), ""]
            lines += [*_docstring(value), ""]
            for own, method in inspect.getmembers(value, inspect.isfunction):
                if inspect.isclass(value) and not own.startswith("_") and method.__doc__:
                    lines += [f"### `{name}.{own}`", "", *_signature(own, method), ""]
                    lines += [*_docstring(method), ""]
    return "\n".join(lines).rstrip() + "\n"


def _signature(name: str, value: Any) -> list[str]:
    try:
        parameters = [str(p) for p in inspect.signature(value).parameters.values()]
    except (TypeError, ValueError):
        return []
    parameters = [re.sub(r"'([^']*)'( =|$)", r"\1\2", p) for p in parameters if p != "self"]
    joined = ", ".join(parameters)
    if len(joined) < 70:
        return ["```python", f"{name}({joined})", "```"]
    return ["```python", f"{name}(", *(f"    {p}," for p in parameters), ")", "```"]


def _docstring(value: Any) -> list[str]:
    """Turn a docstring's sections into lists; cross references become code."""
    text = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", inspect.getdoc(value) or "").replace("``", "`")
    lines: list[str] = []
    for line in text.splitlines():
        if match := re.fullmatch(r"(Args|Attributes|Raises|Returns|Cost|Source):( .*)?", line):
            lines += [f"**{match[1]}**{':' if match[2] else ''}{match[2] or ''}", ""]
        elif match := re.match(r"    (\*{0,2}\w+): (.*)", line):
            lines.append(f"- `{match[1]}`: {match[2]}")
        else:
            lines.append(re.sub(r"^ {4,}", "  ", line))
    return lines


def reports() -> str:
    """Lay out the JSON of every kind of report: each object once, its keys with their meaning."""
    lines = ["# JSON reports", "", _MADE, "", _ON_REPORTS, ""]
    objects: dict[type[Any], None] = {}
    for schema in results.KINDS:
        kind = results.kind_of(schema)
        lines += [f"## `{schema}`", "", *_keys(kind, objects), ""]
    lines += ["## Objects", ""]
    shown: set[type[Any]] = set()
    while new := [kind for kind in objects if kind not in shown]:
        for kind in sorted(new, key=lambda kind: kind.__name__):
            shown.add(kind)
            lines += [f"### {kind.__name__}", "", *_keys(kind, objects), ""]
    return "\n".join(lines).rstrip() + "\n"


_ON_REPORTS = """\
Every report is one object whose `schema` names its kind and the number of its form. It holds no NaN
or Infinity: such a number is `null`, and `notes` says why. Keys may be added within a number, and
keys that are not known are passed over; a key with a default may be missing.
`hessdiag.results.read` gives a report back as the value that wrote it."""


def _keys(kind: type[Any], objects: dict[type[Any], None]) -> list[str]:
    """List the keys of an object; note the objects that they hold."""
    summary, told = _attributes(kind)
    lines = [summary, "", "| key | holds | meaning |", "|---|---|---|"]
    info: Any = msgspec.inspect.type_info(kind)
    for field in info.fields:
        holds = _holds(field.type, objects).replace("|", "\\|")
        lines.append(f"| `{field.encode_name}` | {holds} | {told.get(field.name, '')} |")
    return lines


def _attributes(kind: type[Any]) -> tuple[str, dict[str, str]]:
    """Read the summary and the attributes out of a docstring, those of its bases too."""
    told: dict[str, str] = {}
    origin: Any = getattr(kind, "__origin__", kind)  # of a generic type
    for base in reversed(origin.__mro__):
        section = re.search(
            r"Attributes:\n(.*?)(?:\n\n|\Z)", inspect.cleandoc(base.__doc__ or ""), re.S
        )
        for name, text in re.findall(
            r"^    (\w+): (.*(?:\n {8}.*)*)", section[1] if section else "", re.M
        ):
            told[name] = " ".join(text.split()).replace("|", "\\|").replace("``", "`")
    return inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0], told


def _holds(kind: Any, objects: dict[type[Any], None]) -> str:
    """Name a type as JSON has it."""
    match kind:
        case msgspec.inspect.UnionType(types=types):
            return " or ".join(_holds(one, objects) for one in types)
        case msgspec.inspect.StructType(cls=cls) | msgspec.inspect.DataclassType(cls=cls):
            objects.setdefault(cls)
            return f"[{cls.__name__}](#{cls.__name__.lower()})"
        case msgspec.inspect.DictType(value_type=value):
            return f"object of {_holds(value, objects)}"
        case (
            msgspec.inspect.VarTupleType(item_type=item) | msgspec.inspect.ListType(item_type=item)
        ):
            return f"list of {_holds(item, objects)}"
        case msgspec.inspect.TupleType(item_types=items):
            return f"[{', '.join(_holds(item, objects) for item in items)}]"
        case msgspec.inspect.CustomType():
            return "lists of numbers"
        case _:
            names = {"IntType": "whole number", "FloatType": "number", "StrType": "text"}
            names |= {"BoolType": "true or false", "NoneType": "null", "AnyType": "anything"}
            return names.get(type(kind).__name__, type(kind).__name__)


def methods() -> str:
    """Lay out every method of training with its options."""
    lines = ["# Methods of training", "", _MADE, ""]
    lines += ["`hessdiag train --reg NAME`, or `hessdiag.methods` in a loop of your own.", ""]
    for name, kind in hessdiag.methods.METHODS.items():
        method = kind()
        lines += [
            f"## `{name}`",
            "",
            f"`hessdiag.methods.{kind.__name__}` descends {kind.descends}.",
        ]
        lines += [f"A step costs {method.cost:.3g} gradients at best, with the defaults.", ""]
        lines += [*_docstring(kind), ""]
        rows = [
            f"| `{option.flag}` | `{option.name}` | {option.symbol} | {option.meta.description} "
            f"| `{method.values[option.name]}` |"
            for option in kind.options().values()
        ]
        if rows:
            lines += ["| option | field | | | default |", "|---|---|---|---|---|", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


PAGES = {"commands.md": commands, "library.md": library, "methods.md": methods, "json.md": reports}
"""Files of this folder and what makes them."""


if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
