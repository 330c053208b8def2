"""The base model: a transformers model, unmodified, through which any number of experts can speak or read at once."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from collegium.core.cards import Fingerprint
from collegium.core.errors import BaseModelError
from collegium.core.protocols import Tokenizer
from collegium.models.architectures import longest_text, reads_in_order
from collegium.models.fingerprint import memory_fingerprint
from collegium.models.fold import folded_digest, folded_model, weighted_deltas
from collegium.models.parts import Adapter
from collegium.models.positions import after_context, segment_positions
from collegium.models.rows import BASE_ROWS, RowPlan, Rows, dressed
from collegium.models.sites import Site, choose_sites, expert_sites, find_blocks, parse_layers, site_module
from collegium.models.slots import OpenTrace, Run, Slots, Source, Trace
from collegium.models.tail import Tail, check_tail, find_tail, log_probs, target_log_probs, target_nats

if TYPE_CHECKING:
    from collegium.models.decoding import BaseDecoding, RowDecoding


class Base:
    """A model with named places for experts. One that speaks is itself a `LanguageModel`.

    name, source:   what it is called, and the sentence reports say about where it comes from.
    fingerprint:    of the stored files; does not depend on dtype or device.
    context_tokens: the longest text it reads, None when its configuration does not say.
    output:         what it does to its last hidden states to speak; None for encoders and sequence classifiers, which
                    read texts and say nothing of the next token.
    causal:         whether it reads each token knowing those before it alone; False for encoders.

    Make one with `load_base` or `Base.from_model`. It serves one thread at a time.
    """

    def __init__(  # noqa: D107 - users come through `from_model` or `load_base`
        self, model: nn.Module, tokenizer: Tokenizer | None, *, name: str, source: str, fingerprint: Fingerprint
    ) -> None:
        model.requires_grad_(False)
        model.eval()
        whole: Any = model
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.name, self.source, self.fingerprint = name, source, fingerprint
        self.config: Any = whole.config.get_text_config()
        self.inner: Any = whole.base_model
        self.context_tokens = longest_text(self.inner, self.config)
        self.blocks = find_blocks(self.inner, self.config.num_hidden_layers)
        self.output: Tail | None = find_tail(whole, self.config)
        self.sites: dict[str, Site] = expert_sites(model, self.blocks, self.config)
        self._slots = Slots(model, self.blocks, self.sites)
        self.worn: tuple[str, ...] = ()
        if self.output is not None:
            check_tail(whole, self.inner, self.output)
        self.causal: bool = self.speaks or reads_in_order(whole, self.inner)

    @staticmethod
    def from_model(
        model: nn.Module,
        tokenizer: Tokenizer | None = None,
        *,
        name: str,
        source: str | None = None,
        fingerprint: Fingerprint | None = None,
    ) -> "Base":
        """Return the base of a transformers model in memory; its weights are frozen from here on.

        Raises BaseModelError when the model is neither a decoder whose output layer Collegium can compute by itself
        nor a sequence classifier (of a decoder or an encoder).
        """
        if not hasattr(model, "base_model") or not hasattr(model, "get_output_embeddings"):
            raise BaseModelError(
                f"a base is a transformers causal language model or sequence classifier, got {type(model).__name__}."
            )
        return Base(
            model,
            tokenizer,
            name=name,
            source=source or f"{name} ({type(model).__name__}, in memory)",
            fingerprint=fingerprint or memory_fingerprint(model, tokenizer),
        )

    @property
    def speaks(self) -> bool:
        """Whether it has an output layer over its vocabulary."""
        return self.output is not None

    def require_output(self) -> Tail:
        """Return the output layer; raises BaseModelError when it has none."""
        if self.output is None:
            raise BaseModelError(
                f"{self.name} ({type(self.model).__name__}) reads texts but has no output layer over a vocabulary; use "
                "it for rewards or classification, or load a causal language model."
            )
        return self.output

    @property
    def vocab_size(self) -> int:
        """The size of the vocab axis; of one that does not speak, how many token ids it reads."""
        return int(self.config.vocab_size) if self.output is None else self.output.vocab_size

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return next(self.model.parameters()).dtype

    @property
    def memory_bytes(self) -> int:
        """The bytes of the weights and buffers."""
        tensors = (*self.model.parameters(), *self.model.buffers())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def attached(self) -> tuple[str, ...]:
        """The names of the attached experts."""
        return self._slots.names

    def linear_sites(
        self, targets: Sequence[str] | str | None = None, layers: str | Sequence[int] = "all"
    ) -> dict[str, tuple[int, int]]:
        """Return module path -> (inputs, outputs) of the linear layers that targets and layers name.

        targets: names as paths end (`q_proj`), a pattern for whole paths, or None for every linear layer in a block.
        layers:  `all`, `top:K`, or block indices.

        Raises ConfigError for names, patterns and layers that this base does not have.
        """
        linear = {path: (site.block, site.shape) for path, site in self.sites.items() if site.what == "linear"}
        return choose_sites(linear, targets, parse_layers(layers, len(self.blocks)))

    def module(self, path: str) -> nn.Module:
        """Return the module at a place for experts, a key of `sites`."""
        return site_module(self.model, path, self.sites[path])

    def attach(self, name: str, adapter: Adapter) -> None:
        """Make an expert speakable under a name, on first use installing its slots.

        Raises NameTaken when another expert has the name, IncompatibleExpert when paths or shapes do not fit.
        """
        self._slots.attach(name, adapter)

    def offer(self, name: str, source: Source) -> None:
        """Make an expert speakable whose weights are read on first use, and again after they had to leave.

        Raises NameTaken; what does not fit raises IncompatibleExpert when it is read. See `expert_memory_bytes`.
        """
        self._slots.offer(name, source)

    def reoffer(self, name: str, source: Source) -> None:
        """Read the weights of an expert that was offered, the same ones, from another source from now on."""
        self._slots.reoffer(name, source)

    @property
    def expert_memory_bytes(self) -> int | None:
        """How much the experts in memory may take; beyond it the least recently used one leaves. None = no limit."""
        return self._slots.residents.limit_bytes

    @expert_memory_bytes.setter
    def expert_memory_bytes(self, limit: int | None) -> None:
        self._slots.residents.limit_bytes = limit

    def detach(self, name: str) -> None:
        """Forget an expert; after the last one the model is as it was. Raises UnknownName."""
        self._slots.detach(name)

    def adapter(self, name: str) -> Adapter:
        """Return an attached expert's adapter; raises UnknownName."""
        return self._slots.adapter(name)

    def adapters(self, names: Sequence[str]) -> dict[str, Adapter]:
        """Return the adapters of attached experts that are to run together.

        Raises UnknownName, or ResourceError when together they take more than `expert_memory_bytes`.
        """
        return self._slots.adapters(tuple(names))

    def wearing(self, name: str) -> "Base":
        """Return this base with one more attached expert in every row, whatever experts a plan gives the row.

        Model, attached experts and fingerprint are shared. What is composed on the base that wears one is what is
        composed on this one, each of its rows changed alike. Raises UnknownName.
        """
        self._slots.require((name,))
        worn = copy.copy(self)
        worn.worn = (*self.worn, name)
        return worn

    def folded(self, weights: Mapping[str, float]) -> "Base":
        """Return a base of its own with the weighted adapters folded into its matrices; the other tensors are shared.

        weights: attached name -> any finite weight. Raises UnknownName.
        """
        self._slots.require(tuple(weights))
        deltas = weighted_deltas({name: self._slots.adapter(name) for name in weights}, weights)
        told = ", ".join(f"{weight:g} {name}" for name, weight in weights.items()) or "nothing"
        fingerprint = replace(self.fingerprint, weights=folded_digest(self.fingerprint.weights, deltas))
        return Base(
            folded_model(self.model, deltas, hooks=self._slots.hook_ids),
            self.tokenizer,
            name=self.name,
            source=f"{self.source}, with {told} folded in",
            fingerprint=fingerprint,
        )

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        plan: RowPlan | Rows = BASE_ROWS,
        segments: Int[Tensor, "batch seq"] | None = None,
        trace: Trace | OpenTrace | None = None,
    ) -> Float[Tensor, "row seq hidden"]:
        """Return the last hidden states of every row (groups x texts, group-major), with gradient where asked for.

        lengths:  how far each text goes, the rest being padding; default: all the way. A causal base needs none.
        segments: which document each token of a window belongs to; documents do not see each other.
        trace:    is filled with what gates say, by module path; an `OpenTrace` keeps its gradient.

        Rows are padded on the right: what stands at padding is not defined, and nothing else depends on it.
        Raises BaseModelError for segments on a base that is not causal: its tokens see the whole window.
        """
        self.check_length(tokens.shape[1])
        read = None if lengths is None else self._filled(tokens, lengths)
        asked = self._asked(read, segments)
        with self.running(as_rows(plan, tokens.shape[0]), trace=trace, read=read) as run:
            if isinstance(trace, OpenTrace):
                trace.read = run.read_by_row()
            hidden = self.inner(input_ids=tokens.to(self.device), use_cache=False, **asked).last_hidden_state
        return run.widen(hidden, len(self.blocks))

    def score_rows(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        plan: RowPlan = BASE_ROWS,
        scored: Bool[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "group batch seq"]:
        """Return each token's log-probability given those before it, 0 at position 0, at padding and if not `scored`.

        The output layer is computed only for what is scored, a chunk at a time.
        """
        output = self.require_output()
        with torch.no_grad():
            hidden, read = self.hidden(tokens, plan=plan), self._read(tokens, lengths, scored)
            said = self._per_token(hidden, tokens, read, lambda *each: target_log_probs(output, *each))
        return said.view(len(plan.groups), *tokens.shape)

    def logprobs_rows(
        self, tokens: Int[Tensor, "batch seq"], *, plan: RowPlan = BASE_ROWS
    ) -> Float[Tensor, "group batch seq vocab"]:
        """Return log p(next token | tokens up to here) at every position, for every group; not defined at padding."""
        output = self.require_output()
        with torch.no_grad():
            rows = log_probs(output, self.hidden(tokens, plan=plan))
        return rows.view(len(plan.groups), *tokens.shape, self.vocab_size)

    def token_nats(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        segments: Int[Tensor, "batch seq"] | None = None,
        scored: Bool[Tensor, "batch seq"] | None = None,
        plan: RowPlan = BASE_ROWS,
    ) -> Float[Tensor, "row seq"]:
        """Return each token's nats (-log p) with gradient, for every row; 0 where nothing is scored.

        Not scored are position 0, padding, the first token of each segment, and what `scored` leaves out.
        """
        output, read = self.require_output(), self._read(tokens, lengths, scored)
        if segments is not None:
            read[:, 1:] &= (segments[:, 1:] == segments[:, :-1]).to(read.device)
            read &= (segments >= 0).to(read.device)
        hidden = self.hidden(tokens, plan=plan, segments=segments)
        return self._per_token(hidden, tokens, read, lambda *each: target_nats(output, *each))

    def open_rows(
        self, prompts: Sequence[Sequence[int]], plan: RowPlan | Rows = BASE_ROWS, *, traced: bool = False
    ) -> "RowDecoding":
        """Return a cached decoding that continues the prompts in rows; `traced` keeps what gates say."""
        from collegium.models.decoding import RowDecoding

        self.require_output()
        return RowDecoding(self, prompts, plan, traced=traced)

    def logprobs(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Return log p(next token | tokens up to here) of the base alone; a base reads no context."""
        return self.logprobs_rows(tokens)[0]

    def score(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq"]:
        """Return each token's log-probability under the base alone; 0 for i < context and for padding."""
        return self.score_rows(tokens, lengths=lengths, scored=after_context(tokens, context))[0]

    def open(self, prompts: Sequence[Sequence[int]]) -> "BaseDecoding":
        """Return a decoding that continues the prompts with the base alone."""
        from collegium.models.decoding import BaseDecoding

        return BaseDecoding(self.open_rows(prompts))

    @contextmanager
    def running(
        self,
        rows: Rows,
        *,
        first: int | None = None,
        trace: Trace | OpenTrace | None = None,
        read: Bool[Tensor, "text seq"] | None = None,
    ) -> Iterator[Run]:
        """Let the model follow rows inside the `with`; for the row executor, not for users."""
        rows = dressed(rows, self.worn) if self.worn else rows
        with self._slots.running(rows, dtype=self.dtype, first=first, trace=trace, read=read) as run:
            yield run

    def check_length(self, tokens: int) -> None:
        """Raise BaseModelError when a text is longer than this base reads."""
        if self.context_tokens is not None and tokens > self.context_tokens:
            raise BaseModelError(
                f"{self.name} reads at most {self.context_tokens} tokens, got {tokens}; cut the text or the window."
            )

    def _filled(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Return which tokens are no padding; an empty text's first counts as none of it."""
        place = torch.arange(tokens.shape[1], device=self.device)
        return place < lengths.to(self.device).clamp(min=1)[:, None]

    def _asked(self, read: Tensor | None, segments: Tensor | None) -> dict[str, Tensor]:
        """Return what the model is told besides the tokens: positions inside documents, or which tokens are padding."""
        if self.causal:
            return {} if segments is None else {"position_ids": segment_positions(segments).to(self.device)}
        if segments is not None:
            raise BaseModelError(
                f"{self.name} is an encoder: every token of a window sees all others, so documents cannot be packed "
                "into one; give it a text a row, with `lengths`."
            )
        return {} if read is None else {"attention_mask": read}

    def _read(self, tokens: Tensor, lengths: Tensor | None, scored: Tensor | None) -> Tensor:
        """Return which tokens are scored: not the first, not padding, not what is left out."""
        place = torch.arange(tokens.shape[1], device=self.device)
        read = (place > 0).expand(tokens.shape).clone()
        if lengths is not None:
            read &= place < lengths.to(self.device)[:, None]
        return read if scored is None else read & scored.to(self.device)

    def _per_token(
        self, hidden: Tensor, tokens: Tensor, read: Tensor, values: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Return what `values` says about each read token, given the hidden state before it; 0 elsewhere."""
        groups = hidden.shape[0] // tokens.shape[0]
        targets = tokens.to(self.device)[:, 1:][read[:, 1:]].repeat(groups)
        read = read.repeat(groups, 1)
        out = torch.zeros(read.shape, device=self.device)
        return out.masked_scatter(read, values(hidden[:, :-1][read[:, 1:]], targets))


def as_rows(plan: RowPlan | Rows, texts: int) -> Rows:
    """Return a plan's rows over so many texts; rows are as they are."""
    return plan if isinstance(plan, Rows) else plan.rows(texts)
