"""What the comparison asks Collegium besides: the other composition, in which one row speaks for all experts."""

from pathlib import Path

from with_collegium import College

import collegium as cg
from collegium.infer import perplexities, score_text

BATCH = 8


def open_mix(college: College) -> None:
    """Compose the library as a mix: the posterior at the end of the context is held, one row a text."""
    college.model = cg.mix(college.base, college.library, router=cg.routers.posterior())


def evaluate_mix(college: College, held_out: Path) -> dict:
    """Return the mix's perplexity by domain, and how often the held posterior peaks on the window's own domain."""
    open_mix(college)
    text, model, right = college.read(held_out), college.model, 0
    for start in range(0, len(text.domains), BATCH):
        rows = slice(start, start + BATCH)
        routing = model.routing(text.tokens[rows], lengths=text.lengths[rows], context=text.context[rows])
        peaks = routing.dense()[:, -1].argmax(-1).tolist()
        right += sum(model.experts[peak] == domain for peak, domain in zip(peaks, text.domains[rows], strict=True))
    return {"composed": perplexities(score_text(model, text), text), "accuracy": right / len(text.domains)}
