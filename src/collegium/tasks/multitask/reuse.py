"""New tasks by routes that are there: gates are told what they were told of another task, and adapters go on.

TaMoE routes an unseen task as the nearest seen one [gupta2022tamoe]. Departure: which one that is, is given; gates and
what they are told stand still, so that the route stays the one that was chosen, and adapters alone learn.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose import mixture_plan
from collegium.experts.fresh import with_tensors
from collegium.models import RowPlan
from collegium.rewards.fit import adapter_weights
from collegium.rewards.more import attached_as
from collegium.tasks.multitask.methods import Learnt
from collegium.tasks.multitask.workshop import Workshop, frozen


def learn_by_route(shop: Workshop, learnt: Learnt, told: Float[Tensor, "task size"], *, label: str) -> Learnt:
    """Return what a mixture becomes that learns a workshop's tasks, its gates told these vectors, one for each task.

    learnt: the mixture, which stays as it was: copies of its adapters are trained.
    """
    assert learnt.gates is not None, "a route needs gates"
    keys = tuple(learnt.adapters)
    gates, vectors = frozen(learnt.gates).gates, told.detach()
    adapters = {
        key: with_tensors(adapter, lambda tensor: tensor.detach().clone().requires_grad_())
        for key, adapter in learnt.adapters.items()
    }
    weights = {f"{key}.{name}": each for key, part in adapters.items() for name, each in adapter_weights(part).items()}
    lessons = shop.lessons

    def plan(tasks: Int[Tensor, " row"], states: object) -> RowPlan:
        return mixture_plan(keys, gates, vectors[tasks.to(vectors.device)])

    with attached_as(lessons.base, adapters):
        shop.fit(label, plan, weights, steps=sum(lessons.steps), rate=lessons.config.learning_rate)
    return Learnt(adapters, plan, learnt.parameters, shop.seconds(label))


def drawn_routes(count: int, like: Float[Tensor, "task size"], generator: torch.Generator) -> Float[Tensor, "_ size"]:
    """Return random vectors as long as those of known tasks are on average: routes that nobody chose.

    >>> drawn_routes(2, torch.full((3, 4), 0.5), torch.Generator().manual_seed(0)).norm(dim=1).tolist()
    [1.0, 1.0]
    """
    drawn = torch.randn(count, like.shape[1], generator=generator)
    length = like.detach().cpu().norm(dim=1).mean()
    return (torch.nn.functional.normalize(drawn, dim=1) * length).to(like.device)
