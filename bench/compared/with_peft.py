"""One LoRA a domain with PEFT and transformers' Trainer, a scikit-learn router before them, and the loop around both.

python bench/compared/with_peft.py BASE DATA HELD_OUT FOLDER

BASE is a transformers folder; DATA has train/DOMAIN.jsonl and dev/DOMAIN.jsonl, HELD_OUT has DOMAIN.jsonl, a
{"text": ...} on every line; adapters and router go to FOLDER.
"""

import json
import math
import random
import shutil
from pathlib import Path

import joblib
import torch
import tyro
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from settings import Settings
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, default_data_collator

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SNIPPET_CHARACTERS = 128
EVALUATION_BATCH = 8


def read_texts(path: Path) -> list[str]:
    """Return the texts of a jsonl file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


class College:
    """A base with one adapter a domain, and a router that chooses one of them for each text."""

    def __init__(self, base: str, data: Path, folder: Path, settings: Settings) -> None:
        """Read the tokenizer; the model is read by `train` and by `open`."""
        self.base, self.data, self.folder, self.settings = base, data, folder, settings
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = self.router = None

    def train(self, domain: str) -> None:
        """Train a domain's adapter and keep it; the best held-out loss wins."""
        how = self.settings
        model = AutoModelForCausalLM.from_pretrained(self.base, dtype=how.dtype)
        blocks = model.config.num_hidden_layers
        lora = LoraConfig(
            r=how.rank,
            lora_alpha=how.alpha,
            target_modules=TARGETS,
            layers_to_transform=list(range(blocks - how.layers, blocks)),
            task_type="CAUSAL_LM",
        )
        arguments = TrainingArguments(
            output_dir=str(self.folder / "runs" / domain),
            max_steps=how.steps,
            per_device_train_batch_size=how.batch,
            per_device_eval_batch_size=how.batch,
            learning_rate=how.learning_rate,
            lr_scheduler_type="cosine_with_min_lr",
            lr_scheduler_kwargs={"min_lr_rate": 0.1},
            warmup_steps=round(how.warmup * how.steps),
            weight_decay=how.weight_decay,
            adam_beta2=0.95,
            optim="adamw_torch_fused",
            eval_strategy="steps",
            eval_steps=how.evaluate_every,
            save_strategy="steps",
            save_steps=how.evaluate_every,
            load_best_model_at_end=True,
            label_names=["labels"],
            seed=how.seed,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=not torch.cuda.is_available(),
        )
        trainer = Trainer(
            model=get_peft_model(model, lora),
            args=arguments,
            train_dataset=self.windows("train", domain, how.steps * how.batch),
            eval_dataset=self.windows("dev", domain, how.dev_tokens // how.window),
            data_collator=default_data_collator,
        )
        trainer.train()
        trainer.model.save_pretrained(self.folder / domain)

    def windows(self, part: str, domain: str, count: int) -> Dataset:
        """Return about so many windows of documents joined end to end, a sixteenth or less from each document."""
        draw, width = random.Random(f"{self.settings.seed} {domain}"), self.settings.window
        texts, most, tokens = read_texts(self.data / part / f"{domain}.jsonl"), max(1, count // 16) * width, []
        for text in draw.sample(texts, len(texts)):
            found = self.tokenizer(text)["input_ids"]
            start = draw.randrange(max(1, len(found) - most))
            tokens += [*found[start : start + most], self.tokenizer.eos_token_id]
            if len(tokens) >= count * width:
                break
        rows = [tokens[start : start + width] for start in range(0, len(tokens) - width + 1, width)]
        return Dataset.from_dict({"input_ids": rows, "labels": rows})

    def open(self) -> None:
        """Load the base with every adapter that was kept, and the router when there is one."""
        for adapter in sorted(self.folder.glob("*/adapter_config.json")):
            self.load(adapter.parent.name)
        if (self.folder / "router.joblib").exists():
            self.router = joblib.load(self.folder / "router.joblib")

    def load(self, domain: str) -> None:
        """Load one adapter, the first together with the base."""
        if self.model is None:
            base = AutoModelForCausalLM.from_pretrained(self.base, dtype=self.settings.dtype)
            self.model = PeftModel.from_pretrained(base, self.folder / domain, adapter_name=domain).eval()
        else:
            self.model.load_adapter(self.folder / domain, adapter_name=domain)

    def fit_router(self) -> None:
        """Fit the router on stretches of the domains' training texts, as long as the contexts it will read."""
        draw, snippets, labels = random.Random(self.settings.seed), [], []
        for domain in self.model.peft_config:
            for text in draw.choices(read_texts(self.data / "train" / f"{domain}.jsonl"), k=self.settings.snippets):
                start = draw.randrange(max(1, len(text) - SNIPPET_CHARACTERS))
                snippets.append(text[start : start + SNIPPET_CHARACTERS])
                labels.append(domain)
        features = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)
        self.router = make_pipeline(features, LogisticRegression(C=10, max_iter=1000)).fit(snippets, labels)
        joblib.dump(self.router, self.folder / "router.joblib")

    def route(self, windows: list[list[int]]) -> list[str]:
        """Return the adapter of each window, chosen from its context."""
        contexts = [window[: self.settings.context] for window in windows]
        return self.router.predict(self.tokenizer.batch_decode(contexts)).tolist()

    @torch.inference_mode()
    def nats(self, windows: list[list[int]], adapters: list[str]) -> list[float]:
        """Return the nats of each window's tokens behind its context, each read through its own adapter."""
        rows = self.tokenizer.pad({"input_ids": windows}, padding_side="right", return_tensors="pt")
        labels = rows["input_ids"].masked_fill(rows["attention_mask"] == 0, -100)[:, self.settings.context :]
        logits = self.model(**rows, adapter_names=adapters, logits_to_keep=labels.shape[1] + 1).logits
        losses = cross_entropy(logits[:, :-1].float().flatten(0, 1), labels.flatten(), reduction="none")
        return losses.view_as(labels).sum(1).tolist()

    def score(self, windows: list[list[int]]) -> list[float]:
        """Return the nats of each window's tokens behind its context, routed."""
        return self.nats(windows, self.route(windows))

    def evaluate(self, held_out: Path) -> dict:
        """Return perplexity by domain, of the base and routed, and how often the router was right."""
        width, context = self.settings.window, self.settings.context
        found, right, count = {"base": {}, "routed": {}, "tokens": {}}, 0, 0
        for path in sorted(held_out.glob("*.jsonl")):
            texts = [self.tokenizer(text)["input_ids"] for text in read_texts(path)]
            windows = [text[start : start + width] for text in texts for start in range(0, len(text), width)]
            windows = [window for window in windows if len(window) > context]
            tokens, base, routed = sum(map(len, windows)) - context * len(windows), 0.0, 0.0
            for start in range(0, len(windows), EVALUATION_BATCH):
                batch = windows[start : start + EVALUATION_BATCH]
                chosen = self.route(batch)
                base += sum(self.nats(batch, ["__base__"] * len(batch)))
                routed += sum(self.nats(batch, chosen))
                right += chosen.count(path.stem)
            count += len(windows)
            found["base"][path.stem] = math.exp(base / tokens)
            found["routed"][path.stem] = math.exp(routed / tokens)
            found["tokens"][path.stem] = tokens
        return {**found, "accuracy": right / count}

    @torch.inference_mode()
    def generate(self, prompts: list[str], tokens: int) -> list[str]:
        """Return the prompts' likeliest continuations, each through the adapter that its prompt asks for."""
        chosen, named = self.router.predict(prompts).tolist(), {}
        rows = self.tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
        if len(set(chosen)) == 1:
            self.model.set_adapter(chosen[0])
        else:
            named["adapter_names"] = chosen
        said = self.model.generate(**rows, **named, max_new_tokens=tokens, do_sample=False)
        return self.tokenizer.batch_decode(said[:, rows["input_ids"].shape[1] :], skip_special_tokens=True)

    def add(self, domain: str, adapter: Path) -> None:
        """Take in a trained adapter; the router has to learn of its domain."""
        shutil.copytree(adapter, self.folder / domain)
        self.load(domain)
        self.fit_router()

    def remove(self, domain: str) -> None:
        """Drop an adapter; the router has to forget its domain."""
        self.model.delete_adapter(domain)
        shutil.rmtree(self.folder / domain)
        self.fit_router()


def main(base: str, data: Path, held_out: Path, folder: Path, settings: Settings = Settings()) -> None:  # noqa: B008
    """Train, route, measure, write."""
    college = College(base, data, folder, settings)
    for path in sorted((data / "train").glob("*.jsonl")):
        college.train(path.stem)
    college.open()
    college.fit_router()
    print(college.generate(["To be, or", "import sys"], 32))
    print(json.dumps(college.evaluate(held_out)))


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.PositionalRequiredArgs, tyro.conf.OmitArgPrefixes))
