"""Which of transformers' models a folder asks for, and what kind of reader a model is: whether it speaks, and in order.

A language model speaks. A sequence classifier reads and has a head over a pooled state. An encoder's folder (BERT's
kind) is read as a sequence classifier of one output, so that its modules have the paths that PEFT's adapters name.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from collegium.core.errors import BaseModelError

_CLASSIFIER = "ForSequenceClassification"
_SPEAKERS = ("ForCausalLM", "LMHeadModel")
_PROBE = ((1, 2, 3, 0), (1, 2, 3, 4))
_SAME = 1e-4
"""By how much of the largest state two states may differ that are to be the same: some sum in another order."""


@dataclass(frozen=True)
class Opening:
    """How transformers opens a folder.

    auto: the class that does. what: what messages call such a model. headless: its head is made anew, and not missed.
    options: what is said besides the folder.
    """

    auto: Literal["AutoModelForCausalLM", "AutoModelForSequenceClassification"]
    what: str
    headless: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def loader(self) -> Any:  # noqa: ANN401 - a transformers class
        """The class itself."""
        import transformers

        return getattr(transformers, self.auto)

    def missed(self, names: Collection[str], model: Any) -> list[str]:  # noqa: ANN401 - a transformers model
        """Return which of the weights that a folder lacks it cannot do without."""
        inside = f"{model.base_model_prefix}."
        needed = [name for name in names if name.startswith(inside) and not name.startswith(f"{inside}pooler.")]
        return sorted(needed if self.headless else names)


LANGUAGE = Opening("AutoModelForCausalLM", "a causal language model")
CLASSIFIER = Opening("AutoModelForSequenceClassification", "a sequence classifier")
ENCODER = Opening("AutoModelForSequenceClassification", "an encoder", headless=True, options={"num_labels": 1})


def opening_of(config: Mapping[str, Any]) -> Opening:
    """Return how a folder with this config.json is opened.

    >>> opening_of({"model_type": "bert", "architectures": ["BertModel"]}).what
    'an encoder'
    >>> opening_of({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}).what
    'a sequence classifier'
    """
    if declares_classifier(config):
        return CLASSIFIER
    speaks = bool(config.get("is_decoder")) or any(name.endswith(_SPEAKERS) for name in _architectures(config))
    return ENCODER if _is_encoder_type(config.get("model_type")) and not speaks else LANGUAGE


def declares_classifier(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json says that the weights are a sequence classifier's, head included."""
    return any(name.endswith(_CLASSIFIER) for name in _architectures(config))


def is_classifier(model: Any) -> bool:  # noqa: ANN401 - a transformers model
    """Return whether a model in memory is a sequence classifier."""
    return type(model).__name__.endswith(_CLASSIFIER)


@torch.no_grad()
def reads_in_order(model: Any, inner: Any) -> bool:  # noqa: ANN401 - transformers models
    """Return whether what a model makes of a token depends on the tokens up to it alone.

    It is tried on two texts that differ in their last token. Raises BaseModelError for states that are not finite.
    """
    probe = torch.tensor(_PROBE, device=next(model.parameters()).device)
    states = inner(input_ids=probe, use_cache=False).last_hidden_state.float()
    if not bool(states.isfinite().all()):
        raise BaseModelError(
            f"{type(model).__name__} gives states that are not finite on a probe: its weights are damaged. Copy the "
            "base again."
        )
    gap = (states[0, :-1] - states[1, :-1]).abs().max()
    return bool(gap <= _SAME * states.abs().max())


def longest_text(inner: Any, config: Any) -> int | None:  # noqa: ANN401 - a transformers model and its configuration
    """Return how many tokens a model reads, None when its configuration does not say.

    RoBERTa's kind begins to count its positions behind the one of padding.
    """
    limit = getattr(config, "max_position_embeddings", None)
    positions = getattr(getattr(inner, "embeddings", None), "position_embeddings", None)
    padding = getattr(positions, "padding_idx", None)
    return limit if limit is None or padding is None else limit - padding - 1


def _architectures(config: Mapping[str, Any]) -> list[str]:
    named = config.get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def _is_encoder_type(kind: object) -> bool:
    """Return whether models of a type fill masks and classify texts, which is what encoders are trained for."""
    from transformers.models.auto import modeling_auto

    return (
        isinstance(kind, str)
        and kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        and kind in modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
        and kind not in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    )
