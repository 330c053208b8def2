"""Who is best on the text's true domain speaks; for `eval` and `compare` alone."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.core.protocols import Context, PrefixRouter, Shelf, Tokenizer
from collegium.core.routing import BASE
from collegium.core.tables import nearest
from collegium.routers.held import HeldRouter, check_experts


@dataclass(frozen=True)
class Oracle:
    """All weight on the expert (or `base`) that is best on the text's true domain: domain -> expert."""

    best: Mapping[str, str]

    @property
    def name(self) -> str:
        """Its row in the table."""
        return "oracle"

    def bind(
        self, experts: tuple[str, ...], *, shelf: Shelf | None = None, tokenizer: Tokenizer | None = None
    ) -> PrefixRouter:
        """Return the router over these experts; raises RoutingError on a best expert that is not among them."""
        check_experts(experts)
        for domain, expert in self.best.items():
            if expert not in (*experts, BASE):
                raise RoutingError(f"oracle: {expert!r}, best on {domain!r}, is unknown. {nearest(expert, experts)}")
        names = (*experts, BASE) if BASE in self.best.values() else experts
        columns = {domain: names.index(expert) for domain, expert in self.best.items()}

        def decide(context: Context) -> Float[Tensor, "batch expert"]:
            if context.domains is None:
                raise RoutingError("oracle needs each text's true domain: `eval` and `compare` know it, nobody else.")
            unknown = next((domain for domain in context.domains if domain not in columns), None)
            if unknown is not None:
                raise RoutingError(f"oracle knows no best expert for domain {unknown!r}. {nearest(unknown, columns)}")
            return torch.eye(len(names))[[columns[domain] for domain in context.domains]]

        return HeldRouter(names, decide)


def oracle(best: Mapping[str, str]) -> Oracle:
    """Return the recipe that follows the true domains: domain -> expert with fewest nats on it.

    >>> oracle({"law": "law"}).bind(("law", "code")).experts
    ('law', 'code')
    """
    return Oracle(dict(best))
