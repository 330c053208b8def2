"""The model class of lm-evaluation-harness: `--model collegium`. Importing this module needs lm_eval.

lm_eval's own `TemplateLM` splits context from continuation (trailing spaces move to the continuation; both are
tokenised together, then cut), so that scores compare with those of its other classes. It asks for a subclass; this is
the one class of ours that is one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import lm_eval.models  # noqa: F401 - its own classes register first: it fills its table only while that is empty
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import simple_parse_args_string
from tqdm import tqdm

from collegium.core.errors import ConfigError, DataError, UnknownName
from collegium.core.protocols import LanguageModel, context_limit
from collegium.core.randomness import derive_seed
from collegium.core.routing import BASE
from collegium.core.tables import nearest
from collegium.infer import generate
from collegium.infer.harness import Count, Scored, fitted, greedy, log_likelihoods, rolling, sampling_of
from collegium.recipes.harness_config import HarnessConfig, harness_config
from collegium.recipes.opening import Opened, alone, open_reference
from collegium.recipes.watch import Silent

COMPOSED = "(composed)"
"""What the reference's own model is called beside its base and its experts; no expert can have this name."""
_UNKNOWN_LENGTH = 2048
"""For a base whose configuration does not say how much it reads."""


class HarnessModel(TemplateLM):
    """A language model of ours as lm_eval asks it; made by lm_eval from `--model_args`, or with `open_harness_model`.

    voice: who speaks: the reference's own model (`COMPOSED`), `base`, or an expert by its name. `with_expert` gives
    another on the same loaded base.
    """

    def __init__(self, opened: Opened, config: HarnessConfig, voice: str = COMPOSED) -> None:
        """Keep the opened reference; raises DataError for a base without tokenizer, UnknownName for the voice."""
        super().__init__()
        if opened.base.tokenizer is None:
            raise DataError(
                f"lm_eval scores text, and {opened.base.name} has no tokenizer files; use a base with them."
            )
        self.opened, self.config, self.voice = opened, config, voice
        self.model = self._speaking(voice)
        self.tokenizer = opened.base.tokenizer
        self._device = opened.base.device

    def _speaking(self, voice: str) -> LanguageModel:
        if voice == COMPOSED:
            return self.opened.model
        if voice == BASE:
            return self.opened.base
        if self.opened.cast is None:
            raise UnknownName(f"{self.opened.reference} has no expert {voice!r}. {nearest(voice, self.voices)}")
        return alone(self.opened.cast, voice)

    @property
    def voices(self) -> tuple[str, ...]:
        """The names that `with_expert` takes: the base, each expert, and the reference's own model."""
        return (BASE, *self.opened.experts, COMPOSED)

    def with_expert(self, name: str) -> "HarnessModel":
        """Return the base or one expert alone, or the composition again; nothing is loaded anew."""
        other = HarnessModel(self.opened, self.config, name)
        other.set_cache_hook(self.cache_hook)
        return other

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> "HarnessModel":
        """Return the model of `ref=LIB,batch_size=8`."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict, additional_config: dict | None = None) -> "HarnessModel":
        """Return the model of these arguments; inside `walking`, the voice whose turn it is."""
        config, walk = harness_config(arg_dict, additional_config), _WALK.get()
        if walk is None:
            return open_harness_model(config)
        if walk.model is None:
            walk.model = open_harness_model(config)
        return walk.model.with_expert(walk.voice)

    @property
    def max_length(self) -> int:
        """The most tokens of a text that are read."""
        limit = context_limit(self.model) or _UNKNOWN_LENGTH
        return min(limit, self.config.max_length) if self.config.max_length else limit

    @property
    def max_gen_toks(self) -> int:
        """New tokens of a task that names no number."""
        return self.config.max_gen_toks

    @property
    def batch_size(self) -> int:
        """Texts in one forward."""
        return self.config.batch_size

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._token("eos_token_id")

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text scored from its first token."""
        if self.config.prefix_token_id is not None:
            return self.config.prefix_token_id
        return self._token("bos_token_id", "eos_token_id")

    def _token(self, *names: str) -> int:
        found = [token for name in names if isinstance(token := getattr(self.tokenizer, name, None), int)]
        if not found:
            raise ConfigError("this tokenizer has no begin- or end-of-text token; give prefix_token_id in model_args.")
        return found[0]

    @property
    def tokenizer_name(self) -> str:
        """The name under which lm_eval keeps the requests of a chat template."""
        return f"{self.opened.base.name}-{self.opened.base.fingerprint.tokenizer[:16]}"

    def get_model_info(self) -> dict[str, Any]:
        """Return what lm_eval writes beside the results."""
        way = self.opened.way
        return {
            "collegium_reference": str(self.opened.reference),
            "collegium_voice": self.voice,
            "collegium_base": self.opened.base.fingerprint.short,
            "collegium_composition": way.label if way else "single",
        }

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a chat as the text of the tokenizer's own template; raises ConfigError where it has none."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise ConfigError("this base has no chat template: leave --apply_chat_template away.")
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: object) -> list[int]:
        """Return token ids as `generate` makes them, with no second begin-of-text before a text that has one."""
        del kwargs
        if add_special_tokens is None:
            begin = getattr(self.tokenizer, "bos_token", None)
            add_special_tokens = not (begin and string.startswith(begin))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **kwargs: object
    ) -> list[tuple[float, bool]]:
        """Return (log-likelihood, whether greedy decoding says it) of tokenised contexts and continuations."""
        asked = [fitted(context, continuation, most=self.max_length) for _, context, continuation in requests]
        with _bar("log-likelihoods", 2 * len(asked), quiet=bool(kwargs.get("disable_tqdm"))) as count:
            sums = log_likelihoods(self.model, asked, batch=self.batch_size, count=count)
            likeliest = greedy(self.model, asked, batch=self.batch_size, count=count)
        answers = list(zip(sums, likeliest, strict=True))
        for (pair, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return each text's log-likelihood behind the prefix token, every token scored once in windows."""
        texts = [_arguments(request)[0] for request in requests]
        windows: list[Scored] = []
        owner: list[int] = []
        for place, text in enumerate(texts):
            cut = rolling(self.tok_encode(text, False), prefix=self.prefix_token_id, most=self.max_length)
            windows += cut
            owner += [place] * len(cut)
        with _bar("rolling log-likelihoods", len(windows), quiet=disable_tqdm) as count:
            read = self.config.context
            sums = log_likelihoods(self.model, windows, batch=self.batch_size, read=read, count=count)
        totals = [0.0] * len(texts)
        for place, value in zip(owner, sums, strict=True):
            totals[place] += value
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return each context's continuation up to its first stop string; requests of one kind share batches."""
        answers = [""] * len(requests)
        kinds: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            kinds.setdefault(repr(sorted(_arguments(request)[1].items())), []).append(place)
        with _bar("continuations", len(requests), quiet=disable_tqdm) as count:
            for places in kinds.values():
                self._continue(requests, places, answers, count)
        return answers

    def _continue(self, requests: list[Instance], places: list[int], answers: list[str], count: Count) -> None:
        """Answer requests of one kind, longest first; what each draws follows from the seed and its own place."""
        keywords = _arguments(requests[places[0]])[1]
        sampling = sampling_of(keywords, tokens=self.max_gen_toks)
        prompts = {place: self._prompt(_arguments(requests[place])[0], sampling.tokens) for place in places}
        order = sorted(places, key=lambda place: -len(prompts[place]))
        for start in range(0, len(order), self.batch_size):
            some = order[start : start + self.batch_size]
            seeds = [derive_seed(self.config.seed, "harness", str(place)) for place in some]
            found = generate(self.model, [prompts[place] for place in some], sampling=sampling, seed=seeds)
            for place, each in zip(some, found, strict=True):
                answers[place] = each.text
                self.cache_hook.add_partial("generate_until", _arguments(requests[place]), each.text)
            count(len(some))

    def _prompt(self, text: str, tokens: int) -> list[int]:
        room = self.max_length - tokens
        if room < 1:
            raise ConfigError(
                f"a prompt of at least one token and {tokens} new ones must fit max_length={self.max_length}; ask for "
                "fewer with max_gen_toks, or raise max_length."
            )
        return (self.tok_encode(text) or [self.prefix_token_id])[-room:]


register_model("collegium")(HarnessModel)


def open_harness_model(config: HarnessConfig) -> HarnessModel:
    """Return lm_eval's model of a reference, for `lm_eval.simple_evaluate(model=...)`."""
    return HarnessModel(open_reference(config.reference, config.common, watch=Silent()), config)


@dataclass
class Walk:
    """Which voice lm_eval is given next, and the model it was first opened as."""

    voice: str = BASE
    model: HarnessModel | None = None


_WALK: ContextVar[Walk | None] = ContextVar("walk", default=None)


@contextmanager
def walking() -> Iterator[Walk]:
    """Let every model that lm_eval makes inside the `with` be a voice of the first one: nothing is loaded twice."""
    walk = Walk()
    token = _WALK.set(walk)
    try:
        yield walk
    finally:
        _WALK.reset(token)


def _arguments(request: Instance) -> tuple[Any, ...]:
    """Return what is asked: (text,), (context, continuation) or (context, keywords)."""
    return request.args


@contextmanager
def _bar(label: str, total: int, *, quiet: bool) -> Iterator[Count]:
    with tqdm(total=total, desc=label, disable=quiet) as bar:

        def count(more: int) -> None:
            bar.update(more)

        yield count
