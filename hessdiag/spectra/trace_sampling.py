"""Traces sampled on to their target by the cheapest way that a pilot finds.

That is mostly without products: a quadratic form costs less, and each example may have a probe of
its own, whose variance falls with the number of examples. Where the outputs are few, tr G needs no
probes, and tr H = tr G + tr N those of N alone; where they are many, it may be sampled by signs at
the outputs, a backward pass each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from msgspec import structs

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.exact_trace import find_plan, gn_trace, output_forms
from hessdiag.curvature.example_signs import ExampleSigns
from hessdiag.curvature.forms import check_forms, find_signs, quadratic_forms
from hessdiag.curvature.jet_rules import Unsupported
from hessdiag.curvature.memory import within_memory
from hessdiag.curvature.recorded_uses import Plan
from hessdiag.errors import InputError
from hessdiag.linalg import processes
from hessdiag.linalg.driver import Outcome, drive
from hessdiag.linalg.space import Array
from hessdiag.linalg.trace import Probes, TraceSamples, hutchinson
from hessdiag.seeds import stream
from hessdiag.spectra.spectrum_result import Sampling
from hessdiag.spectra.spectrum_settings import Settings

NONE, PRODUCTS, FORMS, BY_EXAMPLE = "none", "products", "forms", "forms by example"
EXACT = ("gn",)

_UNFIT = (Unsupported, InputError)
"""What forms and exact traces meet; an input that fails by itself, too, will fail in products."""

_FORM_COST, _DRAW_COST = 5 / 3, 1.0  # gradients a probe
_PILOT_PROBES, _PILOT_EXAMPLES = 8, 64
_CHANCE = 1 / 4  # two sample variances of eight are further apart with a chance of 4 %
_CERTAIN_GAIN = 2.0
_SMALL = 0.02  # share of the largest trace below which a trace's own size is no scale


def is_precise(samples: TraceSamples, rel_error: float | None) -> bool:
    """Tell whether a trace's interval is as narrow as asked for."""
    return rel_error is None or (len(samples) > 1 and samples.trace().rel_error <= rel_error)


def probes_of(decomposition: Decomposition, seed: int) -> Probes:
    """Make the sequence of a seed's probes."""
    risk = decomposition.risk
    return Probes(
        decomposition.layout.size,
        seed=seed,
        dtype=risk.dtype,
        device=risk.device,
        space=risk.space,
    )


def sample_on(
    decomposition: Decomposition,
    settings: Settings,
    samples: Mapping[str, TraceSamples],
    *,
    enough: Callable[[str, Mapping[str, TraceSamples]], bool],
    chunk: int,
    on_pass: Callable[[], None],
    certain: bool = False,
) -> tuple[Sampling, Outcome]:
    """Go on after ``num_probes`` products until all parts have enough, or ``max_probes`` are taken.

    Forms start from the first probe again, and then stand for the traces alone.

    Args:
        decomposition: of network, data and loss.
        settings: of the probes.
        samples: by part, with those of the products.
        enough: says of a part whether it has; asked after each pass.
        chunk: probes a pass.
        on_pass: called after each.
        certain: whether ``enough`` may look at intervals that are certain.

    Returns:
        What was chosen, and the passes and products that it took.
    """

    def suffice() -> bool:
        return all(enough(part, samples) for part in settings.parts)

    exact = _exact(decomposition, settings.parts, on_pass)
    if exact is not None and "gn" in samples:
        samples["gn"].exact = exact
    if exact is not None and suffice():
        return Sampling(NONE, "no other trace is left", exact=EXACT), Outcome({}, {}, 1)
    parts = settings.parts if exact is None else ("nme",)
    way = choose(decomposition, parts, settings.seed, certain=certain)
    sampling = way.sampling if exact is None else structs.replace(way.sampling, exact=EXACT)
    probes = probes_of(decomposition, settings.seed)
    if sampling.method != PRODUCTS:
        index = num_passes = 0
        try:
            while not (index and suffice()) and index < settings.max_probes:
                stop = min(index + chunk, settings.max_probes)
                forms = partial(way.forms, decomposition, probes, index, stop)
                found = within_memory(forms, decomposition.risk, decomposition.kept, exchanges=True)
                if exact is not None:
                    found = {"hessian": found["nme"] + exact, "nme": found["nme"]}
                for part in samples.keys() & found.keys():
                    samples[part].add_forms(found[part])
                index, num_passes = stop, num_passes + 1
                on_pass()
        except _UNFIT as error:  # in a batch after those of the pilot
            for taken in samples.values():
                taken.forget_forms()
            reason = f"Taylor mode does not go through {error}"
            sampling = Sampling(PRODUCTS, reason, exact=sampling.exact)
        else:
            return sampling, Outcome({}, {}, num_passes)
    sampler = hutchinson(
        probes,
        samples,
        stop=settings.num_probes,
        chunk=chunk,
        max_probes=settings.max_probes,
        enough=suffice,
        start=settings.num_probes,
    )
    algorithms = {"trace": (settings.parts, sampler)}
    answer, space = decomposition.answer, decomposition.space
    return sampling, drive(algorithms, answer, on_pass=lambda _: on_pass(), space=space)


def _exact(
    decomposition: Decomposition, parts: Sequence[str], on_pass: Callable[[], None]
) -> float | None:
    """Compute tr G without sampling where that can be done; no interval comes at less cost."""
    if {"hessian", "gn"}.isdisjoint(parts):
        return None
    try:
        compute = partial(gn_trace, decomposition)
        trace = within_memory(compute, decomposition.risk, decomposition.kept, exchanges=True)
    except _UNFIT:
        return None
    on_pass()
    return trace


@dataclass(frozen=True)
class Way:
    """How traces are sampled on.

    Attributes:
        sampling: what is reported of it.
        signs: that give each example probes of its own; None for shared ones.
        plan: of the gradients by example, where tr G is sampled at the outputs; else None.
    """

    sampling: Sampling
    signs: ExampleSigns | None = None
    plan: Plan | None = None

    def forms(
        self,
        decomposition: Decomposition,
        probes: Probes,
        start: int,
        stop: int,
        num_examples: int | None = None,
    ) -> dict[str, Array]:
        """Compute forms of the parts, one a probe.

        Raises:
            Unsupported: a batch does what those of the pilot did not.
        """
        found: dict[str, Array] = {}
        if self.sampling.method != NONE:
            rows = probes.rows(start, stop)
            found = quadratic_forms(decomposition, rows, self.signs, num_examples=num_examples)
        if self.plan is not None:
            draws = range(start, stop)
            drawn = output_forms(
                decomposition, draws, probes.seed, self.plan, num_examples=num_examples
            )
            found |= {"gn": drawn}
            if "nme" in found:
                found["hessian"] = drawn + found["nme"]
        return found


def choose(
    decomposition: Decomposition, parts: Sequence[str], seed: int, *, certain: bool = False
) -> Way:
    """Choose the way of the least variance times cost, by a few probes on an eighth of the data.

    The variance is that of the part worst off, relative to its trace. Costs are counted, not timed,
    and the examples are the first ones, so that the choice depends on neither the machine nor the
    microbatches. The variance of probes by example falls with the number of examples, that of
    shared ones ends at the mean matrix's: so the former lose only where they do beyond chance.

    Intervals that are certain bound the variance by ‖Av‖², which forms do not tell: there products
    stay, unless probes by example are better by twice on no fewer than eight examples.

    Cost: two probes; on more than 512 examples, some twenty on 64 of them.
    """
    num_examples = decomposition.gradient().num_examples
    few = min(max(2, min(_PILOT_EXAMPLES, -(-num_examples // 8))), num_examples)
    probes = probes_of(decomposition, stream(seed, "pilot"))

    def pilot(way: Way) -> dict[str, Array]:
        return way.forms(decomposition, probes, 0, _PILOT_PROBES, few)

    way, tried = _choose_forms(decomposition, parts, seed, few, pilot, certain=certain)
    if parts == ("nme",):
        return way
    try:
        plan = find_plan(decomposition)
        if parts != ("gn",):
            drawn = Way(structs.replace(way.sampling, at_outputs=("gn",)), way.signs, plan)
        else:
            drawn = Way(Sampling(NONE, "", at_outputs=("gn",)), None, plan)
        others = pilot(drawn)
    except _UNFIT:
        return way
    if way.sampling.method == PRODUCTS and tried is None:
        if parts != ("gn",):
            return way
        reason = f"{way.sampling.reason}; signs at the outputs cost less than products"
    else:
        assert tried is not None
        cost = _products_cost(parts) if way.sampling.method == PRODUCTS else _FORM_COST
        own = (_DRAW_COST + (0 if parts == ("gn",) else _FORM_COST)) * _worst(others, tried, parts)
        gain = cost * _worst(tried, others, parts) / own if own else 1.0
        gain = float(processes.agreed(gain))
        if gain <= 1:
            return way
        reason = f"without signs at the outputs tr G has {gain:.2g} times the variance per gradient"
        reason = f"{way.sampling.reason}; {reason}" if drawn.sampling.reason else reason
    return replace(drawn, sampling=structs.replace(drawn.sampling, reason=reason))


def _choose_forms(
    decomposition: Decomposition,
    parts: Sequence[str],
    seed: int,
    few: int,
    pilot: Callable[[Way], dict[str, Array]],
    *,
    certain: bool,
) -> tuple[Way, dict[str, Array] | None]:
    """Choose between products, forms and forms by example; give the forms of the chosen one."""
    products = _products_cost(parts)
    try:
        check_forms(decomposition, stream(seed, "signs"))
        shared = pilot(Way(Sampling(FORMS, "")))
    except _UNFIT as error:
        return Way(Sampling(PRODUCTS, f"Taylor mode does not go through {error}")), None
    cheaper = FORMS if products >= _FORM_COST and not certain else PRODUCTS
    try:
        signs = find_signs(decomposition, stream(seed, "signs"))
        apart = pilot(Way(Sampling(BY_EXAMPLE, ""), signs))
    except _UNFIT as error:
        return Way(Sampling(cheaper, f"examples have no probes of their own: {error}")), shared
    own = _FORM_COST * _worst(apart, shared, parts)
    gain = min(products, _FORM_COST) * _worst(shared, apart, parts) / own if own else 1.0
    gain = float(processes.agreed(gain))
    where = f"on the pilot's {few} examples"
    if gain < _CHANCE:
        told = f"{where} probes by example have {1 / gain if gain else float('inf'):.2g} times"
        return Way(Sampling(cheaper, f"{told} the variance per gradient", gain)), shared
    if certain and (gain < _CERTAIN_GAIN or few < _PILOT_PROBES):
        told = f"{where} others have {gain:.2g} times the variance per gradient"
        return Way(Sampling(PRODUCTS, f"{told}, and tell more of an interval", gain)), shared
    told = f"others have {gain:.2g} times" if gain > 1 else "within chance others have no less of"
    reason = f"{where} {told} the variance per gradient, on more examples more"
    return Way(Sampling(BY_EXAMPLE, reason, gain), signs), apart


def _products_cost(parts: Sequence[str]) -> float:
    return 8 / 3 if len(parts) > 1 else 4 / 3 if parts[0] == "gn" else 2.0


def _worst(forms: Mapping[str, Array], others: Mapping[str, Array], parts: Sequence[str]) -> float:
    """Give the largest variance over the squared trace, of which both ways tell."""
    both = forms.keys() & others.keys()
    means = {part: abs(float(np.mean([forms[part], others[part]]))) for part in both}
    floor = _SMALL * max(means.values())
    return max(
        float(forms[part].var(ddof=1)) / max(means[part], floor) ** 2 if floor else 0.0
        for part in parts
    )
