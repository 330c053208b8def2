"""Laws of joint training: a batch of one domain touches its own blocks and what is shared, and nothing else."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from collegium.core.errors import ConfigError, DataError, TrainingError
from collegium.data import Corpus, Document, Domain
from collegium.experts import FitConfig, JointFit, JointTraining, fit_dense, fit_joint
from collegium.experts import joint_fit as joint_module
from collegium.experts.fit import BEING_FITTED
from collegium.experts.joint_blocks import Blocks, joint_numbers
from collegium.models import Adapter, Base, RowPlan
from collegium.testing.pico import pico_base, random_base
from collegium.train import fit

CONFIG = FitConfig(kind="ffn", steps=4, batch=2, window=32, evaluate_every=2, learning_rate=3e-3, dev_tokens=128)
ROUND = dataclasses.replace(CONFIG, accumulation=3)
"""Every update has a batch of each of three domains."""
DECAYED = dataclasses.replace(CONFIG, weight_decay=0.5)


def domain(name: str, words: str) -> Domain:
    return Domain(name, tuple(Document(text=f"{words} number {n}. " * 5) for n in range(9)))


CORPUS = Corpus((domain("law", "The court finds"), domain("code", "return x +"), domain("sea", "A harbour light")))


def wear_all(blocks: Blocks) -> None:
    """Break the rule: let the model have the average of all blocks, so that each has a share in what is read."""
    for key, (holder, leaf) in blocks._holders.items():
        mean = torch.stack([blocks._of[each][key] for each in blocks.domains]).mean(0)
        del holder._parameters[leaf]
        setattr(holder, leaf, mean)


def gradients(training: JointTraining, step: int) -> dict[str, Tensor | None]:
    """Return what one batch alone leaves as gradients."""
    training.objective.loss(step, 0).total.backward()
    return {name: tensor.grad for name, tensor in training.parameters.items()}


def touched(found: Mapping[str, Tensor | None]) -> set[str]:
    """Return whose parameters have any gradient that is not exactly zero."""
    return {name.partition("/")[0] for name, each in found.items() if each is not None and bool((each != 0).any())}


@pytest.fixture
def base() -> Base:
    return pico_base()


@pytest.mark.parametrize(("step", "own"), [(0, "law"), (1, "code"), (2, "sea"), (3, "law")])
def test_a_batch_of_a_domain_has_no_gradient_in_any_other_block(base, step, own):
    training = JointTraining(base, CORPUS, config=CONFIG)
    assert training.objective.domain_of(step, 0) == own
    found = gradients(training, step)
    assert touched(found) == {"shared", own}
    assert all(each is not None and bool((each != 0).any()) for name, each in found.items() if name.startswith(own))


def test_the_law_rejects_a_model_in_which_every_block_takes_part(base, monkeypatch):
    training = JointTraining(base, CORPUS, config=CONFIG)
    blocks = training.objective.blocks
    assert blocks is not None
    monkeypatch.setattr(blocks, "wear", lambda domain: wear_all(blocks))
    assert touched(gradients(training, 0)) == {"shared", "law", "code", "sea"}


def after_one_update(base: Base, *, keep_idle: bool = True) -> tuple[set[str], set[str]]:
    """Return whose parameters the first update has changed, and for whom AdamW keeps means."""
    training = JointTraining(base, CORPUS, config=DECAYED)
    before = {name: each.detach().clone() for name, each in training.parameters.items()}
    loop = dataclasses.replace(joint_module.loop_config(training.config), steps=1)
    seen: dict[str, set[str]] = {}

    class Looking:
        def log(self, step: int, values: Mapping[str, float]) -> None:
            moved = {name: bool((each != before[name]).any()) for name, each in training.parameters.items()}
            seen["moved"] = {name.partition("/")[0] for name, is_moved in moved.items() if is_moved}

        def close(self) -> None:
            """Nothing is held back."""

    idle = training.objective.idle if keep_idle else None
    fit(training.parameters, training.objective.loss, config=loop, logger=Looking(), idle=idle)
    resting = {name.partition("/")[0] for name in training.objective.idle(0)}
    return seen["moved"], resting


def test_an_update_leaves_the_blocks_that_no_batch_ran_through_to_the_bit(base):
    moved, resting = after_one_update(base)
    assert moved == {"shared", "law"}
    assert resting == {"code", "sea"}


def test_the_law_rejects_weight_decay_on_idle_blocks(base):
    moved, _ = after_one_update(base, keep_idle=False)
    assert moved == {"shared", "law", "code", "sea"}


def test_an_update_with_a_batch_of_each_domain_has_no_idle_block(base):
    training = JointTraining(base, CORPUS, config=ROUND)
    assert [training.objective.domain_of(5, part) for part in range(3)] == ["law", "code", "sea"]
    assert training.objective.idle(5) == frozenset()


@pytest.mark.parametrize("config", [CONFIG, ROUND, dataclasses.replace(CONFIG, accumulation=2)])
def test_domains_give_the_windows_that_their_experts_read_alone(base, config):
    training = JointTraining(base, CORPUS, config=config)
    parts = training.objective.parts
    asked: dict[str, list[int]] = {name: [] for name in parts}
    for number in range(training.steps * config.accumulation):
        step, part = divmod(number, config.accumulation)
        name = training.objective.domain_of(step, part)
        turn = number // len(parts)
        asked[name] += parts[name].epochs.rows(turn).tolist()
    alone = {
        name: [row for n in range(config.steps * config.accumulation) for row in each.epochs.rows(n).tolist()]
        for name, each in parts.items()
    }
    assert asked == alone
    seen = training.objective.tokens_seen(training.steps)
    assert seen == {name: int(each.train.scored[alone[name]].sum()) for name, each in parts.items()}


def states(done: JointFit) -> dict[str, Tensor]:
    found = {f"base {name}": tensor for name, tensor in done.model.model.state_dict().items()}
    for name, adapter in done.adapters.items():
        found |= {f"{name} {path} {key}": each for path, part in adapter.items() for key, each in part.tensors.items()}
    return found


def equal(one: JointFit, other: JointFit) -> bool:
    a, b = states(one), states(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Interrupting:
    """A logger that ends the fit after a step, as Ctrl-C would."""

    def __init__(self, after: int) -> None:
        self.after = after

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step == self.after and "loss" in values:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Nothing is held back."""


@pytest.mark.parametrize("config", [DECAYED, dataclasses.replace(DECAYED, accumulation=2)])
def test_steps_and_steps_more_equal_all_steps_at_once(base, tmp_path, config):
    straight = fit_joint(base, CORPUS, config=config)
    with pytest.raises(KeyboardInterrupt):
        fit_joint(base, CORPUS, config=config, checkpoint=tmp_path, logger=Interrupting(5))
    resumed = fit_joint(base, CORPUS, config=config, checkpoint=tmp_path)
    assert resumed.history == straight.history
    assert equal(resumed, straight)
    with pytest.raises(ConfigError, match="another configuration"):
        fit_joint(base, Corpus(CORPUS.domains[:2]), config=config, checkpoint=tmp_path)


def test_the_law_rejects_one_count_of_updates_for_all_blocks(base, tmp_path, monkeypatch):
    straight = fit_joint(base, CORPUS, config=DECAYED)
    with pytest.raises(KeyboardInterrupt):
        fit_joint(base, CORPUS, config=DECAYED, checkpoint=tmp_path, logger=Interrupting(5))
    monkeypatch.setattr("collegium.train.loop.Counter", lambda names: defaultdict(int))
    assert not equal(fit_joint(base, CORPUS, config=DECAYED, checkpoint=tmp_path), straight)


def test_the_new_base_reads_with_the_average_of_the_blocks_and_the_old_base_stays(base):
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    done = fit_joint(base, CORPUS, config=ROUND)
    for path, part in done.adapters["law"].items():
        for name, tensor in part.tensors.items():
            several = torch.stack([done.adapters[each][path].tensors[name].double() for each in CORPUS.names])
            own = done.model.module(path).get_parameter(name)
            torch.testing.assert_close(own, several.mean(0).float(), rtol=0, atol=1e-7)
            assert not torch.equal(own, tensor)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in done.model.model.parameters())
    assert all(done.after[name] < done.before[name] for name in CORPUS.names)


def in_slots(done: JointFit, adapter: Adapter, tokens: Tensor) -> Tensor:
    """Return what the new base says with an adapter in its slots."""
    done.model.attach(BEING_FITTED, adapter)
    try:
        return done.model.logprobs_rows(tokens, plan=RowPlan.one(BEING_FITTED))[0]
    finally:
        done.model.detach(BEING_FITTED)


@pytest.mark.parametrize("layers", ["all", "top:1"])
def test_a_domains_expert_of_the_new_base_is_the_model_that_was_trained(base, layers):
    training = JointTraining(base, CORPUS, config=dataclasses.replace(ROUND, layers=layers))
    tokens = torch.tensor([list(b"The court finds number 3.")])
    done = training.run()
    blocks = training.objective.blocks
    assert blocks is not None
    for name in CORPUS.names:
        said = in_slots(done, done.adapters[name], tokens)
        blocks.wear(name)
        torch.testing.assert_close(said, done.model.logprobs(tokens), rtol=0, atol=1e-4)
        blocks.settle()
    experts = done.experts(done.model)
    assert [each.name for each in experts] == list(CORPUS.names)
    assert {each.card.kind for each in experts} == {"ffn"}
    assert {each.card.base for each in experts} == {done.model.fingerprint}
    assert experts[0].card.documents == CORPUS["law"].split().hashes


def test_layers_that_have_no_blocks_of_a_domains_own_are_shared(base):
    training = JointTraining(base, CORPUS, config=dataclasses.replace(CONFIG, layers="top:1"))
    lower = [name for name in training.parameters if name.startswith("shared/") and "layers.0.mlp" in name]
    assert lower
    assert not any("layers.0.mlp" in name for name in training.parameters if not name.startswith("shared/"))
    count = sum(each.numel() for each in training.parameters.values())
    assert count == joint_numbers(base, ["model.layers.1.mlp"], 3)


def test_the_dense_model_reads_the_same_batches_and_shares_everything(base):
    joint, dense = (JointTraining(base, CORPUS, config=ROUND, separate=each) for each in (True, False))
    assert joint.steps == dense.steps
    assert joint.objective.tokens_seen(joint.steps) == dense.objective.tokens_seen(dense.steps)
    first = [each.objective.loss(0, 0) for each in (joint, dense)]
    assert first[0].count == first[1].count
    torch.testing.assert_close(first[0].total, first[1].total)
    done = fit_dense(base, CORPUS, config=ROUND)
    assert done.adapters == {}
    assert done.identity != fit_joint(base, CORPUS, config=ROUND).identity
    assert set(done.after) == set(CORPUS.names)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox"])
def test_other_architectures_have_blocks_of_a_domains_own(architecture):
    base = random_base(architecture)
    base.tokenizer = pico_base().tokenizer
    done = fit_joint(base, CORPUS, config=dataclasses.replace(CONFIG, steps=2))
    tokens = torch.tensor([list(b"return x + number 3.")])
    assert not torch.equal(in_slots(done, done.adapters["law"], tokens), in_slots(done, done.adapters["code"], tokens))


@pytest.mark.parametrize(
    ("corpus", "match"),
    [
        (Corpus(()), "at least two domains, got 0"),
        (Corpus(CORPUS.domains[:1]), "at least two domains, got 1"),
        (Corpus((*CORPUS.domains[:1], Domain("none", ()))), "'none' has 0 documents"),
    ],
)
def test_too_few_domains_or_texts_are_refused(base, corpus, match):
    with pytest.raises(DataError, match=match):
        JointTraining(base, corpus, config=CONFIG)


def test_settings_that_blocks_do_not_heed_are_refused(base):
    with pytest.raises(ConfigError, match="rank is for"):
        JointTraining(base, CORPUS, config=dataclasses.replace(CONFIG, rank=4))


def test_a_loss_that_is_not_finite_ends_the_fit(base):
    with pytest.raises(TrainingError, match="Lower the learning rate"):
        fit_joint(base, CORPUS, config=dataclasses.replace(CONFIG, learning_rate=1e30))
