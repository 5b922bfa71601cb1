"""The floors of the house: a file imports from its own room and from lower floors."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hessdiag

ROOT = Path(hessdiag.__file__).parent
FLOORS = (
    {
        "errors",
        "bounds",
        "seeds",
        "parts",
        "settings",
        "subject_options",
        "metadata",
        "files",
        "codec",
        "locks",
        "factories",
        "loss_names",
        "progress",
    },
    {"linalg", "nets", "data", "losses", "show", "jobs"},
    {"curvature", "results", "metrics"},
    {"spectra", "landscapes", "block_maps"},
    {"sparsities", "comparisons"},
    {"training"},
    {"gates", "subjects", "callbacks", "findings"},
    {"cli"},
    {"__main__"},
)
TORCH_FREE = FLOORS[0] | {"cli", "__main__", "__init__"}
METHODS = "hessdiag.training.methods."
MODULES = sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if name in rooms)


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Names of the modules that a file imports; ``from a import b`` gives ``a`` and ``a.b``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def own_rooms(names: set[str]) -> set[str]:
    rooms = {name.split(".")[1] for name in names if name.startswith("hessdiag.")}
    return rooms & set.union(*FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_come_from_lower_floors(path):
    here = room(path)
    if here == "__init__":
        return
    for other in own_rooms(imports(path)) - {here}:
        # plain modules, the ground floor, may know each other
        allowed = floor(other) < floor(here) or floor(other) == floor(here) == 0
        assert allowed, f"{here} (floor {floor(here)}) imports {other} (floor {floor(other)})"


def test_no_room_leads_back_to_itself():
    doors: dict[str, set[str]] = {}
    for path in MODULES:
        if (here := room(path)) != "__init__":
            doors[here] = doors.get(here, set()) | own_rooms(imports(path)) - {here}
    tuple(TopologicalSorter(doors).static_order())  # raises CycleError


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in MODULES
        if room(p) in TORCH_FREE or "_settings" in p.name or p.parent.name == "methods"
    ],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_the_command_line_does_not_import_torch(path):
    heavy = {"torch", "torchvision", "numpy", "scipy", "matplotlib", "safetensors"}
    names = imports(path, top_level_only=True)
    assert not heavy & {name.split(".")[0] for name in names}
    light = {*FLOORS[0], "cli", "metrics"}
    settings = {  # of rooms, which import no more
        name for name in names if "_settings" in name or f"{name}.".startswith(METHODS)
    } | {"hessdiag.training"}
    assert own_rooms(names - settings) <= light


def test_linear_algebra_never_sees_a_module():
    for path in (ROOT / "linalg").glob("*.py"):
        assert not {name for name in imports(path) if name.startswith("torch.nn")}


def test_every_room_has_a_floor():
    for path in MODULES:
        assert room(path) == "__init__" or floor(room(path)) >= 0


def test_files_can_be_read_in_one_sitting():
    long = {str(p): n for p in MODULES if (n := len(p.read_text("utf-8").splitlines())) > 380}
    assert not long
