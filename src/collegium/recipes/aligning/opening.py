"""The original model of an alignment, the prompts it goes on from, and what a policy's card says of both."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collegium.align.draws import Prompt, as_prompt
from collegium.compose import TEXTLESS, textless_weights
from collegium.compose.context import EXPERTS, REFERENCE
from collegium.compose.wearing import Wearable, carrier
from collegium.core.errors import ConfigError, DataError, IncompatibleExpert
from collegium.core.protocols import LanguageModel
from collegium.core.routing import BASE
from collegium.library import Library
from collegium.recipes.common import Common
from collegium.recipes.opening import Opened, open_reference
from collegium.recipes.watch import Watch


@dataclass(frozen=True)
class Original:
    """The original model a, and what a policy made of it stands on.

    reference: what opens it again, whatever comes to the library; of a library, what follows its path.
    context, parents: as the policy's card keeps them.
    """

    reference: str

    opened: Opened
    model: Wearable
    context: Mapping[str, Any]
    parents: Mapping[str, str]


def open_original(text: str, library: Path, common: Common, *, watch: Watch) -> Original:
    """Return the original model of a reference.

    Raises BaseModelError for one that does not speak, ConfigError for one of another library than the policy is to be
    kept in, IncompatibleExpert for experts that
    a policy cannot be added to, RoutingError for a model that wears no adapter.
    """
    opened = open_reference(text, common, watch=watch)
    opened.base.require_output()
    carrier(opened.model)
    assert isinstance(opened.model, Wearable)
    if opened.library is None:
        return Original(text, opened, opened.model, {}, {})
    _check_place(text, opened, library)
    weights = fixed_weights(opened, opened.library)
    names = opened.experts if weights is None else tuple(weights)
    parents = {name: opened.library.expert_digest(name) or "" for name in names}
    chosen = "" if opened.way is None else f"?experts={','.join(opened.experts)}&{opened.way.query}"
    again = chosen or f"#{opened.reference.member}"
    if weights is None:
        return Original(again, opened, opened.model, {REFERENCE: chosen}, parents)
    for name in names:
        kind = opened.library.card(name).kind
        if kind != "lora":
            raise IncompatibleExpert(
                f"a policy is added to low-rank experts (lora), {name!r} is of kind {kind}. "
                + ("Give its folder as --model." if kind == "whole" else "Compose it by ensemble, or align the base.")
            )
    return Original(again, opened, opened.model, {EXPERTS: weights} if weights else {}, parents)


def open_proposal(text: str, original: Original, common: Common, *, watch: Watch) -> LanguageModel | None:
    """Return the model that writes the first texts, None where none is named; raises ConfigError for other tokens."""
    if not text:
        return None
    opened = open_reference(text, common, watch=watch)
    if opened.base.fingerprint.tokenizer != original.opened.base.fingerprint.tokenizer:
        raise ConfigError(
            f"--proposal {text} has another tokenizer than the original model: its texts mean nothing there."
        )
    return opened.model


def _check_place(text: str, opened: Opened, library: Path) -> None:
    place = Path(str(opened.reference.library)).expanduser().absolute()
    if place != library.expanduser().absolute():
        raise ConfigError(
            f"{text!r} is made of experts of {place}, and a policy stands on them: keep it in the same library, "
            f"--library {opened.reference.library}."
        )


def fixed_weights(opened: Opened, library: Library) -> dict[str, float] | None:
    """Return how much of each expert a model is, None where that depends on the text, or it is an ensemble."""
    member, way = opened.reference.member, opened.way
    if member is not None:
        return {} if member == BASE else {member: 1.0}
    if way is None or opened.cast is None or way.compose == "ensemble" or way.top_k is not None:
        return None
    weights = dict(way.weights or {})
    if not weights:
        if way.recipe.name not in TEXTLESS:
            return None
        tokenizer = opened.base.tokenizer
        weights = textless_weights(way.recipe, opened.cast.names, shelf=library, tokenizer=tokenizer)
    return {name: weight for name, weight in weights.items() if name != BASE and weight}


def read_prompts(prompt: str, prompts: Path | None, model: LanguageModel) -> list[Prompt]:
    """Return the prompts of a command: one, or the lines of a file that are not empty, each once."""
    if (prompt == "") == (prompts is None):
        raise ConfigError(
            "give what texts go on from, one way: --prompt 'Once upon a time', or --prompts, a file with one a line."
        )
    if prompts is None:
        return [as_prompt(prompt, model)]
    try:
        lines = prompts.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--prompts {prompts} is read as UTF-8 text, one prompt a line: {error}.") from error
    found = [line for line in dict.fromkeys(lines) if line.strip()]
    if not found:
        raise DataError(f"--prompts {prompts} has no line with a prompt.")
    return [as_prompt(line, model) for line in found]
