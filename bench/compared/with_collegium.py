"""The same with Collegium: one expert a domain, a posterior over them that nobody fits, one language model.

python bench/compared/with_collegium.py BASE TEXTS HELD_OUT LIBRARY
"""

import json
from pathlib import Path

import torch
import tyro
from settings import Settings

import collegium as cg
from collegium.infer import HeldOut, ensemble_scores, evaluate_scores, fill_table
from collegium.recipes.held_out import windows_of


class College:
    """A base and a library, composed into one language model."""

    def __init__(self, base: str, texts: Path, library: Path, settings: Settings) -> None:
        """Open or create the library."""
        self.settings = settings
        self.base = cg.load_base(base, dtype=settings.dtype)
        self.library = cg.Library(library, base=self.base)
        self.corpus = cg.read_domains(texts)

    def train(self, domain: str) -> None:
        """Train a domain's expert and keep it; the best held-out loss wins."""
        how = self.settings
        config = cg.FitConfig(
            rank=how.rank,
            alpha=how.alpha,
            layers=f"top:{how.layers}",
            steps=how.steps,
            batch=how.batch,
            window=how.window,
            learning_rate=how.learning_rate,
            warmup=how.warmup,
            weight_decay=how.weight_decay,
            evaluate_every=how.evaluate_every,
            dev_tokens=how.dev_tokens,
            patience=0,
            seed=how.seed,
        )
        checkpoint = self.library.path.with_name("checkpoints") / domain
        self.library.add(cg.fit_expert(self.base, self.corpus[domain], config=config, checkpoint=checkpoint))

    def open(self) -> None:
        """Compose whatever the library holds."""
        self.model = cg.ensemble(self.base, self.library, router=cg.routers.posterior())

    def score(self, windows: list[list[int]]) -> list[float]:
        """Return the nats of each window's tokens behind its context, routed."""
        rows = torch.nn.utils.rnn.pad_sequence([torch.tensor(window) for window in windows], batch_first=True)
        lengths = torch.tensor([len(window) for window in windows])
        return self.model.score(rows, lengths=lengths, context=self.settings.context).sum(1).neg().tolist()

    def evaluate(self, held_out: Path) -> dict:
        """Return perplexity by domain of base, every expert and the ensemble, and how well it was routed."""
        text = self.read(held_out)
        table = fill_table(self.model.voices, text, (*self.model.experts, "base"))
        scores, routing = ensemble_scores(table, self.model.router, tokenizer=self.base.tokenizer)
        return evaluate_scores(table, scores, routing).to_json()

    def read(self, held_out: Path) -> HeldOut:
        """Return the held-out windows."""
        how, documents = self.settings, {each.name: each.documents for each in cg.read_domains(held_out)}
        return windows_of(documents, self.base.tokenizer, window=how.window, context=how.context, budget_tokens=None)

    def generate(self, prompts: list[str], tokens: int) -> list[str]:
        """Return the prompts' likeliest continuations."""
        said = cg.generate(self.model, prompts, sampling=cg.Sampling(tokens=tokens, temperature=0.0))
        return [each.text for each in said]

    def add(self, domain: str, expert: Path) -> None:
        """Take in a trained expert, ours or PEFT's; the posterior asks it from now on."""
        self.library.add(expert, domain, trust_base=True)
        self.open()

    def remove(self, domain: str) -> None:
        """Drop an expert; the posterior asks the others."""
        self.library.remove(domain)
        self.open()


def main(base: str, texts: Path, held_out: Path, library: Path, settings: Settings = Settings()) -> None:  # noqa: B008
    """Train, route, measure, write."""
    college = College(base, texts, library, settings)
    for domain in college.corpus:
        college.train(domain.name)
    college.open()
    print(college.generate(["To be, or", "import sys"], 32))
    print(json.dumps(college.evaluate(held_out)))


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.PositionalRequiredArgs, tyro.conf.OmitArgPrefixes))
