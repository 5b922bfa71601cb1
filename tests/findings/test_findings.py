"""The declared studies: their rule, their grids, and what they cost."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hessdiag import InputError
from hessdiag.findings import gpu_hours, implicit_penalty, run_statistics
from hessdiag.findings.finding import Statement, Term, verdict
from hessdiag.findings.finding_grids import without_nme
from hessdiag.findings.finding_table import FINDINGS, chosen
from hessdiag.findings.kink_bands import bands, kinks
from hessdiag.findings.reproduction_run import Plan, judge
from hessdiag.landscapes import two_weights
from hessdiag.metrics.metric_reading import Reading
from hessdiag.training import loop
from hessdiag.training.history import Epoch

SCALES = ("small", "paper")


@pytest.mark.parametrize(
    ("claim", "interval", "says"),
    [
        ("above", (0.1, 0.2), "shown"),
        ("above", (-0.1, 0.2), "cannot tell"),
        ("above", (-0.2, -0.1), "contradicted"),
        ("below", (-0.2, -0.1), "shown"),
        ("below", (-0.2, 0.1), "cannot tell"),
        ("below", (0.1, 0.2), "contradicted"),
        ("near", (-0.5, 0.5), "shown"),
        ("near", (-0.5, 1.5), "cannot tell"),
        ("near", (-3.0, 3.0), "cannot tell"),
        ("near", (1.1, 1.2), "contradicted"),
        ("near", (-1.2, -1.1), "contradicted"),
        ("near", None, "cannot tell"),
    ],
)
def test_the_rule_of_a_statement(claim, interval, says):
    assert Statement("", (Term(1, "a"),), claim, 1.0).judge(interval) == says


def test_the_rule_of_a_finding():
    assert verdict(["shown", "shown"]) == "shown"
    assert verdict(["shown", "cannot tell"]) == "cannot tell"
    assert verdict(["shown", "contradicted"]) == "contradicted"
    assert verdict([]) == "cannot tell"


def test_statements_are_paired_by_seed_and_leave_out_seeds_that_lack_a_number():
    statement = Statement("", (Term(1, "a"), Term(-2, "b", "x")), "above")
    numbers = {seed: {"a": {"accuracy": 5.0 + seed}, "b": {"x": seed / 2}} for seed in range(4)} | {
        9: {"a": {"accuracy": 7.0}},
        10: {"a": {"accuracy": None}, "b": {"x": 1.0}},
    }
    found = judge(statement, numbers, 0.99)
    assert found.values == dict.fromkeys(range(4), 5.0)
    assert found.verdict == "shown"


@pytest.mark.parametrize("scale", SCALES)
def test_every_study_can_be_run(scale):
    for finding in FINDINGS.values():
        plan = Plan([finding], scale, (10,), {}, {})
        for design in finding.designs[scale]:
            for statement in design.statements:
                assert {term.choice for term in statement.terms} <= {*design.choices}
            runs = plan.configs(design, 10)
            assert runs.keys() == ({} if design.compute else design.choices).keys()
    assert [*FINDINGS] == [*range(1, 12)]


def test_findings_share_their_runs():
    alone = [len(Plan([each], "small", (0,), {}, {}).runs(0)) for each in FINDINGS.values()]
    together = len(Plan([*FINDINGS.values()], "small", (0,), {}, {}).runs(0))
    assert together < sum(alone) - 8


def test_findings_are_chosen_by_number_and_name():
    assert [finding.number for finding in chosen(["nso", "1", "10"])] == [10, 1]
    with pytest.raises(InputError, match="finding"):
        chosen(["12"])


def test_costs_are_those_of_the_recipes():
    plan = Plan([FINDINGS[9]], "paper", (0, 1), {}, {})
    cifar, imagenet = FINDINGS[9].designs["paper"]
    found = {one.choice: one for one in gpu_hours.estimates(plan, cifar)}
    assert found["H 0"].steps == 200 * 391
    assert found["H 0"].images == 200 * 50_000
    assert found["H 0.1"].hours == pytest.approx(3 * found["H 0"].hours)
    forward = found["H 0"].hours * 3600 * gpu_hours.SUSTAINED / 3 / found["H 0"].images
    assert forward == pytest.approx(2 * 5.25e9, rel=0.02)  # multiplications and additions
    (plain, *_) = gpu_hours.estimates(plan, imagenet)
    assert plain.steps == 300 * 1252
    forward = plain.hours * 3600 * gpu_hours.SUSTAINED / 3 / plain.images
    assert forward == pytest.approx(2 * 4.09e9, rel=0.02)


def epoch(number: int, **curvature: float) -> Epoch:
    named = {key.replace("__", "."): Reading(value) for key, value in curvature.items()}
    return Epoch(number, number, 0.1, 1.0, 0.5, 0.4, 0.6, 0, named)


def test_statistics_of_a_run():
    rows = [epoch(n, hessian__trace=x) for n, x in enumerate((9.0, 1.0, 3.0, 4.0), 1)]
    rows.insert(2, epoch(9))
    rows.append(epoch(6, hessian__trace=2.0, perturbation__trace=4.0))

    def read(name: str) -> float | None:
        return run_statistics.read(name, Plan, rows, Path())  # pyright: ignore[reportArgumentType]

    assert read("accuracy") == 0.6
    assert read("final:hessian.trace") == 2.0
    spread = math.log(np.std([3, 4, 2], ddof=1))
    assert read("log-spread:hessian.trace") == pytest.approx(spread)
    assert read("asinh:hessian.trace") == pytest.approx(math.asinh(2))
    assert read("log:hessian.trace") == pytest.approx(math.log(2))
    assert read("log:gn.trace") is None
    assert read("log-gap") == pytest.approx(math.log(2))
    assert read("final:gn.trace") is None
    with pytest.raises(InputError):
        read("median")


def test_relus_nme_is_on_its_kinks():
    found = bands(1)
    assert found["relu"]["norm"] == 0
    areas = [found[f"β {beta}"]["area"] for beta in (5, 10, 20, 40)]
    assert areas == sorted(areas, reverse=True)
    marked = kinks(1)
    survey = two_weights.compare((("relu", None),), resolution=161, seed=1)
    norm = survey.surfaces[0].gn_norm  # jumps with the slope, where a neuron switches
    jumps = np.abs(np.diff(norm, axis=0)) > 0.02 * norm.max()
    assert jumps.sum() > 50
    assert marked[1:][jumps].all()
    assert 0 < marked.mean() < 0.2


def test_sgd_follows_the_flow_with_a_quarter_of_its_step():
    """The paths of a quadratic are closed forms in the eigenvalues of XᵀX."""
    (design,) = FINDINGS[11].designs["small"]
    numbers = {seed: implicit_penalty.orders(seed) for seed in (4,)}
    for seed, found in numbers.items():
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(32, size, generator=generator).double() for size in (8, 3))
        x = torch.cat([x, torch.ones(32, 1)], 1)  # the bias
        h = 2 * x.T @ x / (32 * 3)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            start = torch.nn.Linear(8, 3).double()
        theta = torch.cat([start.weight, start.bias[:, None]], 1).detach()
        minimum = torch.linalg.lstsq(x, y).solution.T
        values, vectors = torch.linalg.eigh(h)
        away = (theta - minimum) @ vectors
        for share in implicit_penalty.SHARES:
            eta = 0.08
            stepped = (1 - eta * values) ** 8
            flowed = (-0.64 * (values + 2 * share * eta * values**2)).exp()
            miss = (away * (stepped - flowed)).norm() / (away * (stepped - 1)).norm()
            assert found[f"quadratic {share:g}"]["miss"] == pytest.approx(float(miss), rel=0.02)
    for statement in design.statements:
        (missed,) = judge(statement, numbers, 0.95).values.values()
        assert abs(missed) < 0.15, statement.says


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["cifar10-wrn28-10", "imagenet-resnet50", "finetune-resnet34"])
def test_each_recipe_of_the_papers_takes_three_steps(recipe: str, tmp_path: Path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.arange(7) % 3)
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(4):
            path = tmp_path / "images" / name / f"{index}.png"
            Image.fromarray(images[index]).save(path)
    data = f"{tmp_path}/x.npz" if recipe.startswith("cifar") else f"folder:{tmp_path}/images"
    finding = FINDINGS[10 if recipe.startswith("finetune") else 9]
    design = next(d for d in finding.designs["paper"] if d.recipe == recipe)
    shrunk = {"data": data, "batch_size": 2, "epochs": 1, "init": "fresh"}
    plan = Plan([finding], "paper", (0,), shrunk, {"num_samples": 7, "track": ()})
    config = [*plan.configs(design, 0).values()][-1]  # a regularised one
    (tmp_path / "run").mkdir()
    finished = loop.train(config, *loop.load_data(config), out=tmp_path / "run")
    assert finished.epochs[-1].step == 3


def test_the_rule_is_as_strict_as_there_are_statements():
    (design,) = (d for d in FINDINGS[9].designs["small"])
    assert design.confidence == pytest.approx(1 - 0.05 / 3)
    assert len(without_nme((0.1,))["statements"]) == 1
