"""Who judges a text: routers that read its prompt alone, so that nobody who answers can choose their judge.

* `adapter`  a low-rank adapter with a head of one output a domain, on the judges' own base, read at the prompt's end
  (ARLISS).
* `states`, `words`, `embeddings`  a linear classifier on the base's states of the prompt, on hashed tf-idf, or on a
  small encoder's states (RODOS).

Their probabilities are calibrated by a temperature fitted on dev prompts. Where the largest is below `threshold` they
abstain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.models import Base, HeadWeights, RowPlan
from collegium.ops.pooling import mean_of, real_tokens
from collegium.rewards.reading import Reading, pooled, prompt_states
from collegium.rewards.texts import TextBatch
from collegium.routers.features import BUCKETS, count_features, inverse_frequency, scaled

ABSTAIN = -1
"""In a choice: no judge alone."""

FeatureSpace = Literal["states", "words", "embeddings"]


@runtime_checkable
class PromptRouter(Protocol):
    """Calibrated probabilities of the domains, from prompts alone."""

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains it knows, in order."""
        ...

    @property
    def parameters(self) -> int:
        """How many numbers it holds beyond the judges'."""
        ...

    def __call__(self, prompts: TextBatch) -> Float[Tensor, "prompt domain"]:
        """Return log-probabilities."""
        ...


def choices(log_probs: Float[Tensor, "prompt domain"], threshold: float) -> Int[Tensor, " prompt"]:
    """Return the likeliest domain of each prompt, `ABSTAIN` where its probability is below the threshold.

    >>> choices(torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log(), 0.6)
    tensor([ 0, -1])
    """
    best = log_probs.max(dim=-1)
    return best.indices.masked_fill(best.values.exp() < threshold, ABSTAIN)


@dataclass(frozen=True, eq=False)
class AdapterRouter:
    """An adapter's head on the state at the prompt's end of a decoder, or on an encoder's pooled state.

    key: under which the adapter is attached to the base. size: of adapter and head.
    """

    base: Base
    domains: tuple[str, ...]
    key: str
    head: HeadWeights
    reading: Reading
    temperature: float
    size: int

    @property
    def parameters(self) -> int:
        """The adapter's and the head's numbers."""
        return self.size

    def __call__(self, prompts: TextBatch) -> Float[Tensor, "prompt domain"]:
        """Return log-probabilities, by one row a prompt."""
        return self.spoken(router_states(self.base, prompts, RowPlan.one(self.key), self.reading))

    def spoken(self, states: Float[Tensor, "prompt hidden"]) -> Float[Tensor, "prompt domain"]:
        """Return what the head says of prompts' states."""
        return (self.head(states) / self.temperature).log_softmax(-1)


def router_states(base: Base, prompts: TextBatch, plan: RowPlan, reading: Reading) -> Float[Tensor, "prompt hidden"]:
    """Return the state by which prompts are told apart: at a decoder's last token, an encoder's pooled one."""
    if not base.causal:
        return pooled(base, prompts, plan=plan, reading=reading)[0]
    return prompt_states(base, base.hidden(prompts.tokens, lengths=prompts.lengths, plan=plan), prompts)


@dataclass(frozen=True, eq=False)
class PromptClassifier:
    """log softmax((W f(prompt) + b) / temperature), f a prompt's features, each less its mean over the fit's prompts
    and divided by its deviation.

    reader: the model whose states are the features; None for words.
    """

    domains: tuple[str, ...]
    features: "Features"
    weight: Float[Tensor, "domain feature"]
    bias: Float[Tensor, " domain"]
    temperature: float

    @property
    def parameters(self) -> int:
        """The numbers of the classifier, and of a model that reads prompts for it alone."""
        return self.weight.numel() + self.bias.numel() + self.features.parameters

    def __call__(self, prompts: TextBatch) -> Float[Tensor, "prompt domain"]:
        """Return log-probabilities."""
        found = self.features(prompts)
        return ((found @ self.weight.T + self.bias) / self.temperature).log_softmax(-1)


@dataclass(frozen=True, eq=False)
class Features:
    """What a classifier sees of a prompt.

    space: which of the three. base: whose token ids the prompts are, and whose states `states` are.
    other: the encoder of `embeddings`. shift, scale: of each feature.
    """

    space: FeatureSpace
    base: Base
    other: Base | None = None
    inverse: Float[Tensor, " bucket"] | None = None
    shift: Float[Tensor, " feature"] | None = None
    scale: Float[Tensor, " feature"] | None = None

    @property
    def parameters(self) -> int:
        """How many numbers of a model it needs: all of the base's or the encoder's."""
        reader = {"states": self.base, "embeddings": self.other, "words": None}[self.space]
        return 0 if reader is None else sum(each.numel() for each in reader.inner.parameters())

    def __call__(self, prompts: TextBatch) -> Float[Tensor, "prompt feature"]:
        """Return the features of prompts, float32 on the processor."""
        if self.space == "words":
            return torch.stack([self._words(text) for text in self.texts(prompts)])
        found = self.raw(prompts)
        return found if self.shift is None or self.scale is None else (found - self.shift) / self.scale

    @torch.no_grad()
    def raw(self, prompts: TextBatch) -> Float[Tensor, "prompt feature"]:
        """Return the mean state of each prompt's tokens, not yet shifted and scaled."""
        reader, batch = self.base, prompts
        if self.space == "embeddings":
            if self.other is None:
                raise RoutingError("a router on embeddings needs the encoder that makes them; it is not loaded.")
            reader, batch = self.other, _read_again(self.texts(prompts), self.other)
        hidden = reader.hidden(batch.tokens, lengths=batch.lengths)
        return mean_of(hidden, real_tokens(batch.tokens, batch.lengths)).cpu()

    def texts(self, prompts: TextBatch) -> list[str]:
        """Return the prompts as text, as far as a judge reads them."""
        rows = zip(prompts.tokens.tolist(), prompts.prompts.tolist(), strict=True)
        return [self.base.tokenizer.decode(row[:length], skip_special_tokens=True) for row, length in rows]

    def _words(self, text: str) -> Float[Tensor, " bucket"]:
        counted = count_features(text)
        inverse = torch.ones(BUCKETS) if self.inverse is None else self.inverse
        return torch.zeros(BUCKETS).index_put((counted.index,), scaled(counted, inverse))


def _read_again(texts: Sequence[str], encoder: Base) -> TextBatch:
    """Return texts as another model's token ids."""
    most = encoder.context_tokens or 512
    rows = [torch.tensor(encoder.tokenizer.encode(text)[:most]) for text in texts]
    lengths = torch.tensor([len(row) for row in rows])
    return TextBatch(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, lengths)


def temperature_of(logits: Float[Tensor, "prompt domain"], domains: Int[Tensor, " prompt"]) -> float:
    """Return the temperature with the lowest mean nats of the true domains, from 0.05 to 20  [guo2017calibration].

    >>> round(temperature_of(torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]]), torch.tensor([0, 0, 0, 0])), 2)
    0.91
    """

    def nats(log_temperature: float) -> float:
        scaled_logits = logits.double() / torch.tensor(log_temperature).exp()
        return float(torch.nn.functional.cross_entropy(scaled_logits, domains))

    from scipy.optimize import minimize_scalar

    found: Any = minimize_scalar(nats, bounds=(-3.0, 3.0), method="bounded")
    return float(torch.tensor(float(found.x)).exp())


def fit_classifier(
    features: Features, train: Mapping[str, TextBatch], dev: Mapping[str, TextBatch]
) -> PromptClassifier:
    """Return the calibrated classifier of prompts by domain.

    Logistic regression over all domains; its penalty is the one of three with the lowest nats on the dev prompts.
    Raises RoutingError with fewer than two domains.
    """
    from sklearn.linear_model import LogisticRegression

    domains = tuple(train)
    if len(domains) < 2:
        raise RoutingError(f"a router tells at least two domains apart, got {list(domains)}.")
    features = fitted_features(features, list(train.values()))
    inputs, labels = _labelled(features, train)
    held, truth = _labelled(features, dev)
    best: tuple[float, PromptClassifier] | None = None
    for strength in (0.01, 0.1, 1.0) if features.space != "words" else (1.0, 10.0, 100.0):
        fitted = LogisticRegression(C=strength, max_iter=1000, class_weight="balanced").fit(
            inputs.double().numpy(), labels.numpy()
        )
        weight, bias = _both_rows(torch.from_numpy(fitted.coef_).float(), torch.from_numpy(fitted.intercept_).float())
        logits = held @ weight.T + bias
        temperature = temperature_of(logits, truth)
        nats = float(torch.nn.functional.cross_entropy(logits / temperature, truth))
        if best is None or nats < best[0]:
            best = nats, PromptClassifier(domains, features, weight, bias, temperature)
    assert best is not None
    return best[1]


def _both_rows(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return a row a domain; of two domains scikit-learn keeps the second's log-odds alone."""
    if len(bias) > 1:
        return weight, bias
    return torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2


def fitted_features(features: Features, prompts: Sequence[TextBatch]) -> Features:
    """Return the features with what they take from the fit's own prompts."""
    if features.space == "words":
        counted = [count_features(text) for batch in prompts for text in features.texts(batch)]
        return replace(features, inverse=inverse_frequency(counted))
    raw = torch.cat([in_parts(features.raw, batch) for batch in prompts])
    return replace(features, shift=raw.mean(0), scale=raw.std(0, unbiased=False).clamp(min=1e-6))


def in_parts(ask: Any, batch: TextBatch, *, size: int = 32) -> Tensor:  # noqa: ANN401 - a function of a batch
    """Return what is said of a batch, asked a part at a time."""
    parts = torch.arange(len(batch)).split(size)
    return torch.cat([ask(batch.take(part)) for part in parts])


def _labelled(features: Features, prompts: Mapping[str, TextBatch]) -> tuple[Tensor, Tensor]:
    inputs = [in_parts(features, batch) for batch in prompts.values()]
    labels = torch.repeat_interleave(torch.arange(len(inputs)), torch.tensor([len(each) for each in inputs]))
    return torch.cat(inputs), labels
