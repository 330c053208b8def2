"""A mixture of task adapters as a language model: adapters beside the feed-forward blocks, weighed by gates that know
which task a text is of.

    out = h + FFN(h) + sum_i alpha_i(h, task) Adapter_i(h)        [xie2023alter; our reading, papers.md 5]

The task is given, or told from the prompt: a linear classifier on mean and last of the base's states of the context,
taken where they enter the first block with adapters. Then the gates are told the tasks' vectors, weighed by how likely
each task is. It is told once, from the context, and held: nothing looks ahead.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose.asking import Asked
from collegium.compose.gated import mean_weights
from collegium.compose.routed import right_padded, row_context, row_lengths
from collegium.core.errors import IncompatibleExpert, UnknownName
from collegium.core.protocols import Decoding, Tokenizer
from collegium.core.routing import Routing
from collegium.core.tables import nearest
from collegium.experts import Expert, MtaPayload
from collegium.models import Base, Group, HeadWeights, RowPlan, RowReader, TaskGate, Trace, after_context
from collegium.models.trunk import Trunk
from collegium.ops.pooling import mean_of, real_tokens, taken_at

_TRACED_TEXTS = 8
"""How many texts are traced at once."""


def entering_states(
    base: Base, first: int, tokens: Int[Tensor, "batch seq"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, "batch two_hidden"]:
    """Return the `pooled_states` of what enters a block of the base alone."""
    with torch.no_grad(), Trunk(base, first).noting() as entered:
        base.hidden(tokens, lengths=lengths)
    return pooled_states(entered[0], lengths)


def pooled_states(
    states: Float[Tensor, "batch seq hidden"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, "batch two_hidden"]:
    """Return the mean of each text's states and behind it the last one, both scaled to a mean square of one.

    The mean says what a text is about, the last state how it ends: what is asked often stands there.

    >>> pooled_states(torch.tensor([[[3.0, 4.0], [9.0, 9.0]]]), torch.tensor([1])).square().mean().item()
    1.0
    """
    mean = mean_of(states, real_tokens(states[..., 0].long(), lengths))
    both = torch.stack([mean, taken_at(states, lengths - 1).float()], dim=1)
    return (torch.nn.functional.normalize(both, dim=-1) * mean.shape[-1] ** 0.5).flatten(1)


def mixture_plan(keys: Sequence[str], gates: Mapping[str, TaskGate], told: Float[Tensor, "batch size"]) -> RowPlan:
    """Return the rows of texts whose gates are told these vectors; a gate stands wherever an adapter does."""
    return RowPlan((Group(tuple(keys), gates=gates, told=told),))


def traced_weights(base: Base, plan: RowPlan, tokens: Int[Tensor, "batch seq"], experts: int) -> dict[str, Tensor]:
    """Return what the gates of a plan say at each position, by place, a column an expert."""
    trace: Trace = {}
    base.hidden(tokens, plan=plan, trace=trace)
    return {
        path: weights if index is None else weights.new_zeros(*weights.shape[:-1], experts).scatter(-1, index, weights)
        for path, (weights, index) in trace.items()
    }


class TaskMixture:
    """A language model: the base with an adapter for each task, weighed at every position and layer.

    task: the one that texts are taken to be of; None = told from each text's context.
    """

    def __init__(self, base: Base, keys: Sequence[str], payload: MtaPayload) -> None:
        """Keep the base, the names under which its adapters are attached, and the gates on its device."""
        self.base, self.keys, self.experts = base, tuple(keys), payload.tasks
        self.gates = {
            path: TaskGate(gate.query.to(base.device), gate.keys.to(base.device), gate.top_k)
            for path, gate in payload.gates.items()
        }
        self.vectors = payload.vectors.to(base.device)
        bias = payload.router.bias
        self.router = HeadWeights(payload.router.weight.to(base.device), None if bias is None else bias.to(base.device))
        self.first = min(base.sites[path].block for path in payload.gates)
        self.task: str | None = None

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The base's tokenizer."""
        return self.base.tokenizer

    @property
    def vocab_size(self) -> int:
        """The base's vocabulary."""
        return self.base.vocab_size

    @property
    def context_tokens(self) -> int | None:
        """The longest text that the base reads."""
        return self.base.context_tokens

    def given(self, task: str | None) -> "TaskMixture":
        """Return the model of texts of one task, or of any (None); raises UnknownName for a task it has not learnt."""
        if task is not None and task not in self.experts:
            raise UnknownName(f"this model has not learnt the task {task!r}. {nearest(task, self.experts)}")
        found = copy.copy(self)
        found.task = task
        return found

    @torch.no_grad()
    def task_log_probs(
        self, tokens: Int[Tensor, "batch seq"], *, lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch task"]:
        """Return the log-probability of each task, given a prompt, whatever task is given."""
        many = row_lengths(tokens, lengths)
        return self.router(entering_states(self.base, self.first, tokens, many)).log_softmax(-1)

    def plan(
        self, tokens: Int[Tensor, "batch seq"], *, lengths: Int[Tensor, " batch"], context: Int[Tensor, " batch"]
    ) -> RowPlan:
        """Return the rows of texts, of which so many leading tokens may say what they are about."""
        if self.task is not None:
            told = self.vectors[self.experts.index(self.task)].expand(len(tokens), -1)
        else:
            read = torch.minimum(context, lengths)
            told = self.task_log_probs(tokens[:, : int(read.max())], lengths=read).exp() @ self.vectors
        return mixture_plan(self.keys, self.gates, told)

    @torch.no_grad()
    def routing(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Routing:
        """Return the weights of the adapters at each position: the mean over the places where gates act."""
        many = row_lengths(tokens, lengths)
        read, parts = row_context(context, many), []
        for rows in torch.arange(len(tokens)).split(_TRACED_TEXTS):
            plan = self.plan(tokens[rows], lengths=many[rows], context=read[rows])
            trace: Trace = {}
            self.base.hidden(tokens[rows], plan=plan, trace=trace)
            parts.append(mean_weights(trace, self.experts))
        return Routing(self.experts, torch.cat(parts))

    @torch.no_grad()
    def score(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq"]:
        """Return each token's log-probability given those before it; 0 for i < context and for padding."""
        many = row_lengths(tokens, lengths)
        read = row_context(context, many)
        plan = self.plan(tokens, lengths=many, context=read)
        return self.base.score_rows(tokens, lengths=many, plan=plan, scored=after_context(tokens, read))[0]

    @torch.no_grad()
    def logprobs(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Return the distribution over the next token at every position."""
        many = row_lengths(tokens, lengths)
        plan = self.plan(tokens, lengths=many, context=row_context(context, many))
        return self.base.logprobs_rows(tokens, plan=plan)[0]

    @torch.no_grad()
    def open(self, prompts: Sequence[Sequence[int]]) -> Decoding:
        """Return a decoding of the prompts; where no task is given, each prompt says what it is of."""
        asked = self.ask(prompts)
        return asked.begin(self.base.open_rows(prompts, asked.plan, traced=True))

    @torch.no_grad()
    def ask(self, prompts: Sequence[Sequence[int]]) -> Asked:
        """Return the rows that read the prompts."""
        tokens, lengths = right_padded(prompts)
        plan = self.plan(tokens, lengths=lengths, context=lengths)
        read = int(lengths.sum()) if self.task is None else 0
        return Asked(self.base, plan, lambda rows: TaskDecoding(self.experts, rows), read)


class TaskDecoding:
    """Texts of a task mixture being continued, each with what its gates were told at the start."""

    def __init__(self, experts: tuple[str, ...], rows: RowReader) -> None:
        """Take over the rows."""
        self.experts, self.rows = experts, rows

    @property
    def routing(self) -> Routing | None:
        """The weights that acted at the last position: the mean over the places where gates act."""
        last = self.rows.trace or {}
        said = {path: (each[:, -1:], None if index is None else index[:, -1:]) for path, (each, index) in last.items()}
        return Routing(self.experts, mean_weights(said, self.experts))

    def next_logprobs(self) -> Float[Tensor, "batch vocab"]:
        """Return the log-probabilities of the next token."""
        return self.rows.logprobs

    def shares(self, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch expert"] | None:
        """Return the weights that act here: inside one blended network nobody speaks alone."""
        return None if self.routing is None else self.routing.weights[:, 0]

    def step(self, tokens: Int[Tensor, " batch"]) -> None:
        """Append one token to every text."""
        self.rows.step(tokens)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these texts alone."""
        self.rows.keep(rows)


def open_task_mixture(base: Base, expert: Expert) -> TaskMixture:
    """Return an expert of kind `mta` as a language model, its adapters attached once per content.

    Raises IncompatibleExpert for another kind, or one that was made for another base.
    """
    from collegium.compose.door import check_base

    if not isinstance(expert.payload, MtaPayload):
        raise IncompatibleExpert(f"{expert.name!r} is of kind {expert.card.kind!r}, no mixture of task adapters (mta).")
    check_base(expert.card, base)
    keys = []
    for task, adapter in expert.payload.adapters.items():
        keys.append(f"{expert.name}:{task}@{expert.digest[:16]}")
        if keys[-1] not in base.attached:
            base.attach(keys[-1], adapter)
    return TaskMixture(base, keys, expert.payload)
