"""Laws of making many experts: nobody loses by another's failure, and nobody's weights know of the others."""

import dataclasses
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import torch

from collegium.core.errors import ConfigError, DataError, LibraryError, NameTaken, ResourceError, TrainingError
from collegium.data import Document, Domain
from collegium.experts import AdapterPayload, Expert, WholePayload, fit_whole, load_model
from collegium.experts.fit import fit_expert
from collegium.experts.processes import Processes
from collegium.experts.recipe import FitConfig
from collegium.experts.shared_base import share_base
from collegium.experts.workers import Branch, Outcome, Progress, domain_task, fit_experts, run_tasks

CONFIG = FitConfig(rank=4, steps=8, batch=2, window=32, evaluate_every=4, learning_rate=3e-3, dev_tokens=256, threads=1)
TEXTS = {"law": "The court finds for tenant {n}. ", "code": "def f{n}(x): return {n}\n", "drama": "Enter Ghost {n}. "}
DOMAINS = [Domain(name, tuple(Document(text=text.format(n=n) * 8) for n in range(9))) for name, text in TEXTS.items()]
EMPTY = Domain("empty", ())


def equal(one: Expert | None, other: Expert | None) -> bool:
    assert one is not None
    assert other is not None
    assert isinstance(one.payload, AdapterPayload)
    assert isinstance(other.payload, AdapterPayload)
    left, right = one.payload.adapter, other.payload.adapter
    return left.keys() == right.keys() and all(
        torch.equal(left[path].a, right[path].a) and torch.equal(left[path].b, right[path].b) for path in left
    )


@pytest.fixture(scope="module")
def alone(_pico_once) -> dict[str, Expert]:
    return {domain.name: fit_expert(_pico_once, domain, config=CONFIG) for domain in DOMAINS}


def test_alone_in_order_and_in_parallel_are_the_same_to_the_last_bit(pico, alone, tmp_path):
    seen: list[Progress] = []
    in_order = fit_experts(pico, DOMAINS, config=CONFIG, work=tmp_path / "one")
    parallel = fit_experts(pico, DOMAINS, config=CONFIG, work=tmp_path / "two", workers=2, report=seen.append)
    for outcomes in (in_order, parallel):
        assert [outcome.name for outcome in outcomes] == ["law", "code", "drama"]
        for outcome in outcomes:
            assert outcome.error is None
            assert outcome.expert is not None
            assert equal(outcome.expert, alone[outcome.name])
            card = dataclasses.replace(outcome.expert.card, created="", payload={})
            assert card == dataclasses.replace(alone[outcome.name].card, created="", payload={})
    assert [each.curve for each in in_order] == [each.curve for each in parallel]
    for name in TEXTS:
        steps = [each.step for each in seen if each.name == name and "loss" in each.values]
        assert steps == list(range(1, 9))
    assert not list((tmp_path / "two").glob(".*"))


def test_two_threads_give_the_same_alone_and_in_a_worker(pico, tmp_path):
    config = dataclasses.replace(CONFIG, threads=2, steps=4)
    [outcome] = run_tasks(pico, [domain_task(DOMAINS[0], config, tmp_path)], executor=Processes(1))
    assert equal(outcome.expert, fit_expert(pico, DOMAINS[0], config=config))


def test_failures_are_reported_and_lose_nobody_else(pico, alone, tmp_path):
    mute = Domain("mute", tuple(Document(text=letter) for letter in "abc"))
    wild = dataclasses.replace(CONFIG, learning_rate=1e18, clip=1e9, warmup=0.0, steps=40)
    tasks = [
        domain_task(DOMAINS[0], wild, tmp_path),
        domain_task(mute, CONFIG, tmp_path),
        domain_task(DOMAINS[1], CONFIG, tmp_path),
    ]
    outcomes = run_tasks(pico, tasks, workers=2)
    assert [type(outcome.error) for outcome in outcomes] == [TrainingError, DataError, type(None)]
    assert equal(outcomes[2].expert, alone["code"])
    assert pico.attached == ()


def test_a_domain_without_documents_is_one_outcome_among_others(pico, alone, tmp_path):
    outcomes = fit_experts(pico, [EMPTY, DOMAINS[0]], config=CONFIG, work=tmp_path)
    assert isinstance(outcomes[0].error, DataError)
    assert equal(outcomes[1].expert, alone["law"])


def own_workers() -> list[psutil.Process]:
    """Return the living workers of this process, the eldest first, and no children that others left."""
    children = [child for child in psutil.Process().children() if any("serve(" in word for word in child.cmdline())]
    return sorted(children, key=lambda child: child.create_time())


def test_a_killed_worker_is_reported_the_others_go_on_and_a_second_call_mends_it(pico, tmp_path):
    killed: list[int] = []
    config = dataclasses.replace(CONFIG, steps=40)

    def kill_law(progress: Progress) -> None:
        if progress.name == "law" and progress.step == 5 and not killed:
            # `law` is the first task, so the eldest child is its worker
            eldest = own_workers()[0]
            eldest.kill()
            killed.append(eldest.pid)

    outcomes = fit_experts(pico, DOMAINS, config=config, work=tmp_path, workers=2, report=kill_law)
    assert len(killed) == 1
    assert isinstance(outcomes[0].error, ResourceError)
    assert "signal 9 (SIGKILL)" in str(outcomes[0].error)
    assert "--workers 1 --threads 1" in str(outcomes[0].error)
    assert f"go on from the checkpoints in {tmp_path / 'law' / 'checkpoints'}" in str(outcomes[0].error)
    assert [outcome.error for outcome in outcomes[1:]] == [None, None]
    assert list((tmp_path / "law" / "checkpoints").glob("step-*"))
    resumed: list[Progress] = []
    again = fit_experts(pico, DOMAINS, config=config, work=tmp_path, report=resumed.append)
    assert equal(again[0].expert, fit_expert(pico, DOMAINS[0], config=config))
    assert all(equal(second.expert, first.expert) for second, first in zip(again[1:], outcomes[1:], strict=True))
    assert {each.name for each in resumed} == {"law"}
    assert min(each.step for each in resumed) % 4 == 1
    assert min(each.step for each in resumed) > 4


def test_a_worker_killed_before_its_first_checkpoint_speaks_of_none(pico, tmp_path):
    config = dataclasses.replace(CONFIG, evaluate_every=100, steps=1000)

    def kill_first(progress: Progress) -> None:
        for worker in own_workers():  # none is left where a dead one's last words come in
            worker.kill()

    [outcome] = run_tasks(pico, [domain_task(DOMAINS[0], config, tmp_path)], executor=Processes(1), report=kill_first)
    assert "SIGKILL" in str(outcome.error)
    assert "checkpoints" not in str(outcome.error)


def test_what_is_kept_leaves_no_checkpoints_and_what_cannot_be_kept_does(pico, tmp_path):
    kept: list[str] = []

    def keep(outcome: Outcome) -> Expert:
        if outcome.name == "code":
            raise NameTaken("code exists already")
        kept.append(outcome.name)
        assert outcome.expert is not None
        return outcome.expert

    outcomes = fit_experts(pico, DOMAINS, config=CONFIG, work=tmp_path, keep=keep)
    assert kept == ["law", "drama"]
    assert isinstance(outcomes[1].error, LibraryError)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code"]


def test_what_others_left_in_a_tasks_folder_stays(pico, tmp_path):
    (tmp_path / "law").mkdir()
    (tmp_path / "law" / "my-text.txt").write_text("mine")
    fit_experts(pico, DOMAINS[:1], config=CONFIG, work=tmp_path, keep=lambda outcome: outcome.expert)
    assert [path.name for path in (tmp_path / "law").iterdir()] == ["my-text.txt"]


def test_an_error_of_ours_while_keeping_loses_nobody_else(pico, tmp_path):
    def keep(outcome: Outcome) -> Expert:
        raise OSError("odd")

    outcomes = fit_experts(pico, DOMAINS[:2], config=CONFIG, work=tmp_path, keep=keep)
    assert all("OSError: odd" in str(outcome.error) for outcome in outcomes)


def whole_state(outcome: Outcome) -> dict[str, torch.Tensor]:
    assert outcome.error is None
    assert outcome.expert is not None
    assert isinstance(outcome.expert.payload, WholePayload)
    model = outcome.expert.payload.model
    return (load_model(model, dtype=torch.float32) if isinstance(model, Path) else model).state_dict()


def test_whole_models_in_order_and_in_parallel_are_the_same_and_lose_nobody(pico, tmp_path):
    small = dataclasses.replace(CONFIG, rank=FitConfig().rank)
    parent = fit_whole(pico, DOMAINS[2], config=small).expert

    def branch(domain: Domain) -> Branch:
        if domain.name == "drama":
            raise ValueError("a mistake of ours")
        return Branch((parent,), {"drama": 0.5, "base": 0.5})

    told: list[Progress] = []
    in_order = fit_experts(pico, DOMAINS, config=small, work=tmp_path / "one", branch=branch)
    parallel = fit_experts(
        pico, DOMAINS, config=small, work=tmp_path / "two", workers=2, branch=branch, report=told.append
    )
    for one, other in zip(in_order[:2], parallel[:2], strict=True):
        assert one.curve == other.curve
        first, second = whole_state(one), whole_state(other)
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert one.expert is not None
        assert one.expert.card.parents == {"drama": parent.digest}
    assert {each.name for each in told} == {"law", "code"}
    for outcomes in (in_order, parallel):
        assert "ValueError: a mistake of ours" in str(outcomes[2].error)


SCRIPT = """
    import signal, sys
    from pathlib import Path
    from collegium.testing.pico import pico_base
    from collegium.experts.workers import fit_experts
    sys.path.insert(0, sys.argv[2])
    from test_workers import CONFIG, DOMAINS
    import dataclasses

    def report(progress):
        if progress.step >= 3 and "loss" in progress.values:
            print("ready", flush=True)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    config = dataclasses.replace(CONFIG, steps=100_000, evaluate_every=100_000)
    try:
        fit_experts(pico_base(), DOMAINS[:2], config=config, work=Path(sys.argv[1]), workers=2, report=report)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_or_the_parents_death_stop_the_workers_with_checkpoints(tmp_path, blow):
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path), str(Path(__file__).parent)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    workers = psutil.Process(parent.pid).children()
    assert len(workers) == 2
    parent.send_signal(blow)
    parent.stdout.close()
    assert parent.wait(60) == (130 if blow == signal.SIGINT else -signal.SIGKILL)
    gone, alive = psutil.wait_procs(workers, timeout=60)
    assert (len(gone), alive) == (2, [])
    deadline = time.monotonic() + 5
    while not list(tmp_path.glob("*/checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(tmp_path.glob("*/checkpoints/step-*"))
    assert not list(tmp_path.glob("*/checkpoints/.staging-*"))


def test_a_mapped_base_is_the_base_to_the_last_bit_and_its_weights_stay_in_the_file(pico, tmp_path):
    opened = share_base(pico, tmp_path).open()
    tokens = torch.arange(40).view(2, 20)
    assert torch.equal(opened.logprobs(tokens), pico.logprobs(tokens))
    assert opened.fingerprint == pico.fingerprint
    pages = [each for each in psutil.Process().memory_maps(grouped=False) if each.path.endswith("weights.bin")]
    assert sum(each.rss for each in pages) > 0
    assert sum(each.anonymous for each in pages) == 0  # nothing was copied on write


class TooLarge:
    """A model that no worker has the memory to open."""

    @classmethod
    def from_pretrained(cls, *arguments: object, **named: object) -> None:
        raise RuntimeError("std::bad_alloc")


def test_a_worker_whose_memory_does_not_suffice_for_the_base_says_what_to_lower(pico, tmp_path, monkeypatch):
    shared = dataclasses.replace(share_base(pico, tmp_path), model_class=TooLarge)
    monkeypatch.setattr("collegium.experts.processes.share_base", lambda base, folder: shared)
    outcomes = fit_experts(pico, DOMAINS[:2], config=CONFIG, work=tmp_path / "work", workers=2)
    for outcome in outcomes:
        assert isinstance(outcome.error, ResourceError)
        assert "lower --batch" in str(outcome.error)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "qwen3", "gemma3"])
def test_bases_of_other_architectures_are_mapped_alike(architecture, tmp_path):
    from collegium.testing.pico import random_base

    base = random_base(architecture)
    opened = share_base(base, tmp_path).open()
    tokens = torch.arange(40).view(2, 20)
    assert torch.equal(opened.logprobs(tokens), base.logprobs(tokens))


def test_a_disk_too_full_for_the_weights_is_told(pico, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ResourceError, match="no space left"):
            fit_experts(pico, DOMAINS, config=CONFIG, work=tmp_path, workers=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_names_are_given_once_and_workers_are_at_least_one(pico, tmp_path):
    with pytest.raises(ConfigError, match="law comes twice"):
        run_tasks(pico, [domain_task(DOMAINS[0], CONFIG, tmp_path)] * 2)
    with pytest.raises(ConfigError, match="workers is at least 1"):
        fit_experts(pico, DOMAINS, work=tmp_path, workers=0)


def test_no_tasks_no_outcomes(pico, tmp_path):
    assert fit_experts(pico, [], work=tmp_path, workers=2) == []
    assert run_tasks(pico, [], executor=Processes(2)) == []
