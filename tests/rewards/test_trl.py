"""TRL trains a policy on a reward model of ours, and is told what Python and the command line say."""

import json
import math

import pytest
import torch
from datasets import Dataset
from small_rewards import QUICK, corpus_of
from trl import RLOOConfig, RLOOTrainer

from collegium.cli.main import main
from collegium.core.samples import Message, Sample
from collegium.library import Library
from collegium.models import load_base
from collegium.rewards import DESIGNS, DesignOptions, Making, open_reward, reward_function
from collegium.testing.pico import pico_base

pytestmark = pytest.mark.filterwarnings(
    # TRL asks transformers, before each generation, a question that transformers has renamed.
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

QUESTIONS = [f"{name} {number}?" for name in ("law", "code") for number in range(2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base on disk: the policy, and what the judges stand on."""
    made, folder = pico_base(), tmp_path_factory.mktemp("trl") / "pico"
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def library(folder):
    base = load_base(str(folder))
    library = Library(folder.parent / "library", base=base, base_reference=str(folder))
    options = DesignOptions(threshold=0.0)
    making = Making(base, library, corpus_of("law", "code"), "arliss", config=QUICK, options=options)
    DESIGNS["arliss"].fit(making).save(library, "arliss")
    return library


@pytest.fixture(scope="module")
def model(folder, library):
    return open_reward(load_base(str(folder)), library, "arliss")


def as_chats(questions):
    return [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": each}] for each in questions]


LONG = {"min_new_tokens": 3}


def one_step(folder, reward, prompts, output, *, generation=LONG, length=8):
    """Return the trainer after a step on two answers to each prompt."""
    arguments = RLOOConfig(
        output_dir=str(output),
        max_steps=1,
        per_device_train_batch_size=2 * len(prompts),
        num_generations=2,
        max_completion_length=length,
        generation_kwargs=generation,
        beta=0.0,
        learning_rate=1e-2,
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        dataloader_pin_memory=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    columns = {"prompt": prompts, "answer": ["a column that is not looked at"] * len(prompts)}
    trainer = RLOOTrainer(
        model=str(folder), reward_funcs=reward, args=arguments, train_dataset=Dataset.from_dict(columns)
    )
    trainer.train()
    return trainer


def said_to(trainer):
    """Return what TRL keeps for its table of completions: prompts, completions, and each function's rewards."""
    return tuple(list(trainer._logs[name]) for name in ("prompt", "completion")), dict(trainer._logs["rewards"])


def weights_of(trained):
    return {name: each.detach().clone() for name, each in trained.named_parameters()}


def as_sample(prompt, completion):
    """Return a prompt and what was answered to it, as TRL has them, as a sample of ours, written out by hand."""
    if isinstance(prompt, str):
        return Sample(prompt, completion)
    turns = tuple(Message(each["role"], each["content"]) for each in prompt)
    return Sample(turns, tuple(Message("assistant", each["content"]) for each in completion))


@pytest.mark.parametrize("form", [list, as_chats])
def test_a_step_of_trl_is_told_the_models_own_rewards_under_its_name(folder, model, tmp_path, form):
    prompts = form(QUESTIONS)
    before = weights_of(model.judges.base.inner)
    trainer = one_step(folder, reward_function(model), prompts, tmp_path)
    (asked, answered), rewards = said_to(trainer)
    assert len(asked) == 2 * len(prompts)
    assert all(each in prompts for each in asked)
    own = model([as_sample(*both) for both in zip(asked, answered, strict=True)])
    assert list(rewards) == ["arliss"]
    assert torch.allclose(torch.tensor(rewards["arliss"]), own, atol=1e-6, rtol=0)
    assert len(set(rewards["arliss"])) > 2
    logged = trainer.state.log_history[0]
    assert logged["rewards/arliss/mean"] == pytest.approx(float(own.mean()), abs=1e-6)
    assert logged["reward"] == pytest.approx(float(own.mean()), abs=1e-6)
    trained = weights_of(trainer.model.model)
    assert any(not torch.equal(trained[name], each) for name, each in before.items())
    assert all(torch.equal(each, before[name]) for name, each in weights_of(model.judges.base.inner).items())


def test_an_answer_that_ends_at_once_is_not_judged_and_stops_nothing(folder, model, tmp_path):
    """With one token an answer, and none but the end of text likely, TRL hands over empty texts."""
    end = model.judges.base.tokenizer.eos_token_id
    only = {"min_new_tokens": 0, "suppress_tokens": [token for token in range(258) if token not in (end, ord("x"))]}
    trainer = one_step(folder, reward_function(model), QUESTIONS, tmp_path, generation=only, length=1)
    (asked, answered), rewards = said_to(trainer)
    assert set(answered) == {"", "x"}
    for prompt, answer, reward in zip(asked, answered, rewards["arliss"], strict=True):
        assert (
            math.isnan(reward) if not answer else reward == pytest.approx(float(model([Sample(prompt, "x")])), abs=1e-4)
        )


def rows_of(prompts, completions):
    return [
        {"prompt": prompt, "completion": completion} for prompt, completion in zip(prompts, completions, strict=True)
    ]


@pytest.mark.parametrize("form", [list, as_chats])
def test_the_command_line_python_and_trl_give_a_text_the_same_reward(library, model, tmp_path, capsys, form):
    prompts = form(QUESTIONS)
    answers = ["An x.", " y", "abc" * 40, "Z\n"]
    completions = answers if form is list else [[{"role": "assistant", "content": each}] for each in answers]
    rows = rows_of(prompts, completions)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--model", f"{library.path}#arliss", "--jsonl", "--dtype", "float32", "--device", "cpu", "--threads", "1"]
    capsys.readouterr()
    assert main(["reward", "score", str(tmp_path / "rows.jsonl"), *words]) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [{"prompt": each["prompt"], "completion": each["completion"]} for each in told] == rows
    own = model([as_sample(**row) for row in rows])
    assert torch.allclose(torch.tensor([each["reward"] for each in told]), own, atol=1e-6, rtol=0)
    to_trl = reward_function(model)(prompts=prompts, completions=completions, completion_ids=[[1]] * 4)
    assert torch.allclose(torch.tensor(to_trl), own, atol=1e-6, rtol=0)
    assert len({round(each, 4) for each in to_trl}) == len(rows)
