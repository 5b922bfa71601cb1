"""Traces sampled on to their target by the cheapest way that a pilot finds.

That is mostly without products: a quadratic form costs less, and each example may have a probe of
its own, whose variance falls with the number of examples. Where the outputs are few, tr G needs no
probes, and tr H = tr G + tr N those of N alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from msgspec import structs

from hessdiag.curvature.decomposition import Decomposition
from hessdiag.curvature.exact_trace import gn_trace
from hessdiag.curvature.example_signs import ExampleSigns
from hessdiag.curvature.forms import check_forms, find_signs, quadratic_forms
from hessdiag.curvature.jet_rules import Unsupported
from hessdiag.curvature.memory import within_memory
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

_FORM_COST = 5 / 3  # gradients a probe
_PILOT_PROBES, _PILOT_EXAMPLES = 8, 64
_CHANCE = 1 / 4  # two sample variances of eight are further apart with a chance of 4 %
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

    Returns:
        What was chosen, and the passes and products that it took.
    """

    def suffice() -> bool:
        return all(enough(part, samples) for part in settings.parts)

    exact = _exact(decomposition, settings.parts, on_pass)
    if exact is None:
        sampling, signs = choose(decomposition, settings.parts, settings.seed)
    else:
        if "gn" in samples:
            samples["gn"].exact = exact
        if suffice():
            sampling = Sampling(NONE, "no other trace is left", exact=EXACT)
            return sampling, Outcome({}, {}, 1)
        sampling, signs = choose(decomposition, ("nme",), settings.seed)
        sampling = structs.replace(sampling, exact=EXACT)
    probes = probes_of(decomposition, settings.seed)
    if sampling.method != PRODUCTS:
        index = num_passes = 0
        try:
            while index < settings.max_probes and not (index and suffice()):
                rows = probes.rows(index, min(index + chunk, settings.max_probes))
                forms = partial(quadratic_forms, decomposition, rows, signs)
                found = within_memory(forms, decomposition.risk, decomposition.kept, exchanges=True)
                if exact is not None:
                    found = {"hessian": found["nme"] + exact, "nme": found["nme"]}
                for part in samples.keys() & found.keys():
                    samples[part].add_forms(found[part])
                index, num_passes = index + len(rows), num_passes + 1
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


def choose(
    decomposition: Decomposition, parts: Sequence[str], seed: int
) -> tuple[Sampling, ExampleSigns | None]:
    """Choose the way of the least variance times cost, by a few probes on an eighth of the data.

    The variance is that of the part worst off, relative to its trace. Costs are counted, not timed,
    and the examples are the first ones, so that the choice depends on neither the machine nor the
    microbatches. The variance of probes by example falls with the number of examples, that of
    shared ones ends at the mean matrix's: so the former lose only where they do beyond chance.

    Cost: two probes; on more than 512 examples, sixteen on 64 of them.
    """
    products = 8 / 3 if len(parts) > 1 else 4 / 3 if parts[0] == "gn" else 2.0
    num_examples = decomposition.gradient().num_examples
    few = min(max(2, min(_PILOT_EXAMPLES, -(-num_examples // 8))), num_examples)
    probes = probes_of(decomposition, stream(seed, "pilot")).rows(0, _PILOT_PROBES)
    try:
        check_forms(decomposition, stream(seed, "signs"))
        shared = quadratic_forms(decomposition, probes, num_examples=few)
    except _UNFIT as error:
        return Sampling(PRODUCTS, f"Taylor mode does not go through {error}"), None
    cheaper = FORMS if products >= _FORM_COST else PRODUCTS
    try:
        signs = find_signs(decomposition, stream(seed, "signs"))
        apart = quadratic_forms(decomposition, probes, signs, num_examples=few)
    except _UNFIT as error:
        return Sampling(cheaper, f"examples have no probes of their own: {error}"), None
    own = _FORM_COST * _worst(apart, shared, parts)
    gain = min(products, _FORM_COST) * _worst(shared, apart, parts) / own if own else 1.0
    gain = float(processes.agreed(gain))
    where = f"on the pilot's {few} examples"
    if gain < _CHANCE:
        told = f"{where} probes by example have {1 / gain if gain else float('inf'):.2g} times"
        return Sampling(cheaper, f"{told} the variance per gradient", gain), None
    told = f"others have {gain:.2g} times" if gain > 1 else "within chance others have no less of"
    return Sampling(BY_EXAMPLE, f"{where} {told} the variance per gradient, on more more", gain), (
        signs
    )


def _worst(forms: Mapping[str, Array], others: Mapping[str, Array], parts: Sequence[str]) -> float:
    """Give the largest variance over the squared trace, of which both ways tell."""
    means = {part: abs(float(np.mean([forms[part], others[part]]))) for part in forms}
    floor = _SMALL * max(means.values())
    return max(
        float(forms[part].var(ddof=1)) / max(means[part], floor) ** 2 if floor else 0.0
        for part in parts
    )
