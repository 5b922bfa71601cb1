"""Write the references of commands and library from the code: ``python docs/generate.py``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

import hessdiag
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


PAGES = {"commands.md": commands, "library.md": library}
"""Files of this folder and what makes them."""


if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
