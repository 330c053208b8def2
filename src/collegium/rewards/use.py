"""Using a reward model elsewhere: as TRL's reward function, and to choose the best of several answers."""

from collections.abc import Callable, Sequence
from typing import Any

from collegium.core.errors import DataError
from collegium.core.protocols import Feature
from collegium.core.samples import Message, Sample, Text


def reward_function(model: Feature) -> Callable[..., list[float | None]]:
    """Return a function of prompts and completions as TRL's trainers call it: `f(prompts, completions, **columns)`.

    Plain texts and chats (lists of messages) are taken; other columns are not looked at. It is named after the model,
    which is what TRL's logs call it. A policy whose first token ends its text has said nothing that could be judged:
    the reward of an empty completion is None, and TRL neither reinforces nor punishes it.

    >>> class Longer:
    ...     name = "longer"
    ...     def __call__(self, samples):
    ...         import torch
    ...         return torch.tensor([float(len(each.completion)) for each in samples])
    >>> reward_function(Longer())(["p", "p", "p"], ["a", "", "abc"], answer=[1, 2, 3])
    [1.0, None, 3.0]
    """

    def reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:  # noqa: ANN401
        del columns
        if len(prompts) != len(completions):
            raise DataError(f"there is one completion for each prompt: {len(prompts)} prompts, {len(completions)}.")
        pairs = zip(prompts, completions, strict=True)
        samples = [Sample(as_text(prompt), as_text(completion)) for prompt, completion in pairs]
        rewards = iter(model([each for each in samples if each.completion]).tolist())
        return [next(rewards) if each.completion else None for each in samples]

    reward.__name__ = model.name
    return reward


def as_text(value: Any) -> Text:  # noqa: ANN401 - what a data set holds
    """Return a text or the turns of a chat; raises DataError for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(turn, dict) for turn in value):
        turns = [(turn.get("role"), turn.get("content")) for turn in value]
        if turns and all(isinstance(role, str) and isinstance(content, str) for role, content in turns):
            return tuple(Message(str(role), str(content)) for role, content in turns)
    raise DataError(f'a text, or a list of messages {{"role": ..., "content": ...}}, is judged; got {value!r:.80}.')


def best_of(model: Feature, prompt: Text, completions: Sequence[str]) -> tuple[int, list[float]]:
    """Return which of several completions of a prompt has the highest reward (the first of equals), and all rewards.

    Raises DataError for none at all.
    """
    if not completions:
        raise DataError("the best of no completions was asked for; give one at least.")
    rewards = model([Sample(prompt, each) for each in completions]).tolist()
    return max(range(len(rewards)), key=lambda place: (rewards[place], -place)), rewards
