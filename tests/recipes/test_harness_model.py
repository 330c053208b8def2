"""lm_eval's model class: what it answers is what score, perplexity and generate say, for every voice of a library."""

import json
import tomllib
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch

import collegium as cg
from collegium.cli.main import main
from collegium.core.cards import ExpertCard
from collegium.core.errors import ConfigError, DataError, UnknownName
from collegium.experts import AdapterPayload, Expert
from collegium.infer import Sampling, generate
from collegium.infer.harness import rolling
from collegium.models import Base
from collegium.recipes.harness import measured, output_path, require_lm_eval
from collegium.recipes.harness_config import HarnessConfig, harness_config
from collegium.recipes.opening import Opened
from collegium.recipes.reference import Reference
from collegium.testing.pico import byte_tokenizer, pico_base, random_adapter

with warnings.catch_warnings():  # lm_eval and what it needs are others' code
    warnings.simplefilter("ignore")
    import lm_eval
    import lm_eval.tasks
    from lm_eval.api.instance import Instance
    from lm_eval.api.registry import get_model

    from collegium.recipes.harness_model import COMPOSED, HarnessModel, open_harness_model, walking

pytestmark = [pytest.mark.recipe, pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet_harness")]

ROOT = Path(__file__).parents[2]
TASKS = "tests/recipes/harness_tasks"
ROWS = [json.loads(line) for line in (ROOT / TASKS / "passages.jsonl").read_text().splitlines()]


@pytest.fixture
def quiet_harness(monkeypatch, tmp_path):
    """Run from the repository's root, where the tasks' data lies; leave lm_eval's own thousand tasks unread."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("lm_eval.__main__.setup_logging", lambda: None)  # it would keep this test's captured stream
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # it asks many programs
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", partial(lm_eval.tasks.TaskManager, include_defaults=False))


@pytest.fixture(scope="module")
def library(tmp_path_factory, pico_folder):
    base = cg.load_base(str(pico_folder), dtype="float32")
    found = cg.Library(tmp_path_factory.mktemp("harness") / "lib", base=base, base_reference=str(pico_folder))
    for seed, name in enumerate(("law", "sea"), start=1):
        card = ExpertCard(name=name, kind="lora", base=base.fingerprint)
        found.add(Expert(card, AdapterPayload(random_adapter(base, seed, scale=0.1))))
    return found


def opened(library, **more) -> HarnessModel:
    settings = {"router": "posterior", "dtype": "float32", "device": "cpu", "threads": 1, **more}
    return open_harness_model(HarnessConfig(ref=str(library.path), **settings))


def asked(kind, *arguments):
    return [Instance(kind, {}, each, number) for number, each in enumerate(arguments)]


PAIRS = [(row["opening"][-60:], ending) for row in ROWS[:3] for ending in row["endings"][:2]]


def own_score(lm, context, continuation):
    """The model's own score of a pair, both read as one text and cut where the context's tokens end."""
    moved = len(context) - len(context.rstrip())
    context, continuation = context[: len(context) - moved], context[len(context) - moved :] + continuation
    tokens = lm.tokenizer.encode(context + continuation)
    return float(lm.model.score(torch.tensor([tokens]), context=len(lm.tokenizer.encode(context))).sum())


@pytest.mark.parametrize("voice", ["base", "law", COMPOSED])
def test_log_likelihoods_are_the_models_scores(library, voice):
    lm = opened(library).with_expert(voice)
    pairs = [*PAIRS, ("and so ", "they went"), ("a  ", " b")]
    found = lm.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True)
    for (context, continuation), (value, _) in zip(pairs, found, strict=True):
        assert value == pytest.approx(own_score(lm, context, continuation), abs=1e-3)


def test_greedy_continuations_are_known(library):
    lm = opened(library)
    said = generate(lm.model, PAIRS[0][0], sampling=Sampling(tokens=4, temperature=0.0))[0].text
    assert said.isascii()
    found = lm.loglikelihood(asked("loglikelihood", (PAIRS[0][0], said), (PAIRS[0][0], "#" + said)), True)
    assert [likeliest for _, likeliest in found] == [True, False]


def test_an_empty_context_is_the_prefix_token(library):
    lm = opened(library)
    ((value, _),) = lm.loglikelihood(asked("loglikelihood", ("", "to be")), True)
    tokens = [lm.tokenizer.bos_token_id, *lm.tokenizer.encode("to be")]
    assert value == pytest.approx(float(lm.model.score(torch.tensor([tokens])).sum()), abs=1e-4)
    other = opened(library, prefix_token_id=10)
    assert other.prefix_token_id == 10
    assert other.loglikelihood(asked("loglikelihood", ("", "to be")), True)[0][0] != pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("voice", ["base", "sea", COMPOSED])
def test_rolling_adds_up_windows_of_the_models_scores(library, voice):
    lm = opened(library, max_length=48, context=1).with_expert(voice)
    texts = [row["opening"] for row in ROWS[:2]]
    found = lm.loglikelihood_rolling(asked("loglikelihood_rolling", *((text,) for text in texts)), True)
    for text, value in zip(texts, found, strict=True):
        windows = rolling(lm.tokenizer.encode(text), prefix=lm.prefix_token_id, most=48)
        assert len(windows) > 2
        own = [float(lm.model.score(torch.tensor([each.tokens]), context=each.context).sum()) for each in windows]
        assert value == pytest.approx(sum(own), abs=1e-3)


@pytest.mark.parametrize("voice", ["law", COMPOSED])
def test_continuations_are_those_of_generate(library, voice):
    lm = opened(library).with_expert(voice)
    contexts = [row["opening"][:number] for number, row in zip((40, 20, 30), ROWS, strict=False)]
    keywords = {"until": ["e", ""], "max_gen_toks": 12}
    found = lm.generate_until(asked("generate_until", *((text, keywords) for text in contexts)), True)
    own = generate(lm.model, contexts, sampling=Sampling(tokens=12, temperature=0.0, stop=("e",)))
    assert found == [each.text for each in own]


def test_requests_of_several_kinds_keep_their_order(library):
    lm = opened(library, batch_size=2)
    kinds = [{"max_gen_toks": 3}, {"max_gen_toks": 5}, {"max_gen_toks": 3}, {"max_gen_toks": 5}]
    contexts = ["to be", "or not", "to", "be that"]
    found = lm.generate_until(asked("generate_until", *zip(contexts, kinds, strict=True)), True)
    for context, keywords, text in zip(contexts, kinds, found, strict=True):
        sampling = Sampling(tokens=keywords["max_gen_toks"], temperature=0.0)
        assert text == generate(lm.model, context, sampling=sampling)[0].text


def test_the_batch_size_changes_nothing(library):
    one, five = (opened(library, batch_size=size) for size in (1, 5))
    for kind, arguments in (
        ("loglikelihood", PAIRS),
        ("loglikelihood_rolling", [(row["opening"],) for row in ROWS[:4]]),
    ):
        alone, together = (getattr(lm, kind)(asked(kind, *arguments), disable_tqdm=True) for lm in (one, five))
        assert torch.tensor(alone) == pytest.approx(torch.tensor(together), abs=1e-4, rel=1e-6)
    drawn = [(text, {"do_sample": True, "max_gen_toks": 8}) for text, _ in PAIRS]
    texts = [lm.generate_until(asked("generate_until", *drawn), True) for lm in (one, five)]
    assert texts[0] == texts[1]
    assert opened(library, seed=1).generate_until(asked("generate_until", *drawn), True) != texts[0]


def test_what_does_not_fit_is_cut_from_the_left_or_refused(library):
    lm = opened(library, max_length=16)
    ((value, _),) = lm.loglikelihood(asked("loglikelihood", ("x" * 40 + "to be or", " not")), True)
    ((cut, _),) = lm.loglikelihood(asked("loglikelihood", ("xxxxto be or", " not")), True)
    assert value == pytest.approx(cut, abs=1e-5)
    with pytest.raises(DataError, match="max_length"):
        lm.loglikelihood(asked("loglikelihood", ("a", "b" * 16)), True)
    with pytest.raises(ConfigError, match="max_gen_toks"):
        lm.generate_until(asked("generate_until", ("a", {"max_gen_toks": 16})), True)
    (short,) = lm.generate_until(asked("generate_until", ("x" * 40 + "to be", {"max_gen_toks": 4})), True)
    assert short == generate(lm.model, "xxxxxxxto be", sampling=Sampling(tokens=4, temperature=0.0))[0].text


def test_voices_share_one_base(library):
    lm = opened(library)
    assert lm.voices == ("base", "law", "sea", COMPOSED)
    for voice in lm.voices:
        other = lm.with_expert(voice)
        assert other.opened is lm.opened
        assert other.get_model_info()["collegium_voice"] == voice
    with pytest.raises(UnknownName, match="Did you mean 'law'"):
        lm.with_expert("lwa")
    alone = open_harness_model(HarnessConfig(ref=f"{library.path}#law", dtype="float32", device="cpu"))
    tokens = torch.tensor([[1, 2, 3, 4]])
    assert torch.allclose(alone.model.score(tokens), lm.with_expert("law").model.score(tokens), atol=1e-5)


def test_nothing_is_loaded_twice_on_a_walk(library, monkeypatch):
    loads = []
    load = Base.from_model
    monkeypatch.setattr(Base, "from_model", staticmethod(lambda *a, **k: loads.append(1) or load(*a, **k)))
    arguments = {"ref": str(library.path), "router": "posterior", "dtype": "float32"}
    with walking() as walk:
        for voice in ("base", "law", COMPOSED):
            walk.voice = voice
            assert HarnessModel.create_from_arg_obj(arguments, {"device": "cpu"}).voice == voice
    assert len(loads) == 1
    assert HarnessModel.create_from_arg_string(f"ref={library.path},router=uniform", {}).voice == COMPOSED
    assert len(loads) == 2


def test_chats_are_written_in_the_tokenizers_template(library):
    lm = opened(library)
    said = lm.apply_chat_template([{"role": "user", "content": "hello"}])
    assert said == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    assert lm.tok_encode(said) == lm.tokenizer.encode(said)
    assert lm.chat_template(True) == lm.tokenizer.chat_template
    assert lm.opened.base.fingerprint.tokenizer[:16] in lm.tokenizer_name
    lm.tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        lm.apply_chat_template([{"role": "user", "content": "hello"}])


def test_a_text_that_begins_itself_gets_no_second_beginning():
    from tokenizers.processors import TemplateProcessing

    base = pico_base()
    base.tokenizer = byte_tokenizer()
    begin = base.tokenizer.bos_token
    base.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, base.tokenizer.bos_token_id)]
    )
    lm = HarnessModel(Opened(Reference(base="pico"), base, base), HarnessConfig(ref="pico"))
    assert lm.tok_encode("a") == [256, 97]
    assert lm.tok_encode(f"{begin}a") == [256, 97]
    assert lm.tok_encode("a", add_special_tokens=False) == [97]


def test_a_base_without_tokenizer_is_refused():
    base = pico_base()
    base.tokenizer = None
    with pytest.raises(DataError, match="no tokenizer"):
        HarnessModel(Opened(Reference(base="pico"), base, base), HarnessConfig(ref="pico"))


def test_lm_eval_knows_the_class_by_name_and_by_entry_point():
    assert get_model("collegium") is HarnessModel
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lm_eval.models"]
    module, _, name = points["collegium"].partition(":")
    assert (module, name) == (HarnessModel.__module__, HarnessModel.__name__)


def test_lm_evals_own_evaluation_in_python(library):
    lm = opened(library, batch_size=4)
    manager = lm_eval.tasks.TaskManager(include_path=TASKS)
    found = lm_eval.simple_evaluate(
        lm.with_expert("law"), tasks=["which_ending", "whole_passage", "next_words"], task_manager=manager, limit=3
    )
    assert found["config"]["collegium_voice"] == "law"
    acc = found["results"]["which_ending"]["acc,none"]
    chosen = [
        max(range(4), key=lambda n: own_score(lm.with_expert("law"), row["opening"], row["endings"][n]))
        for row in ROWS[:3]
    ]
    assert acc == pytest.approx(sum(n == row["answer"] for n, row in zip(chosen, ROWS, strict=False)) / 3)
    assert found["results"]["whole_passage"]["bits_per_byte,none"] > 1


def words(library, *more):
    base = f"ref={library.path},router=posterior,dtype=float32"
    return ["lm-eval", *more, "--model", "collegium", "--model_args", base, "--include_path", TASKS, "--limit", "2"]


def test_the_command_hands_its_words_to_lm_eval(library, capsys, tmp_path):
    code = main([*words(library), "--tasks", "whole_passage", "--output_path", str(tmp_path / "out"), "--json"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    found = json.loads(shown.out)
    assert found["results"]["whole_passage"]["bits_per_byte"]["value"] > 1
    assert found["model"] == "collegium"
    assert "|whole_passage|" in shown.err
    (written,) = (tmp_path / "out").glob("*/results_*.json")
    assert json.loads(written.read_text())["config"]["collegium_voice"] == COMPOSED


def test_each_evaluates_every_voice_on_one_base(library, capsys, monkeypatch):
    loads = []
    load = Base.from_model
    monkeypatch.setattr(Base, "from_model", staticmethod(lambda *a, **k: loads.append(1) or load(*a, **k)))
    one = ["--model_args", f"ref={library.path},experts=law+sea,router=posterior,dtype=float32", "--limit", "1"]
    code = main([*words(library, "--each"), "--tasks", "whole_passage", *one, "--json", "--jsonl"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert len(loads) == 1
    *rows, found = map(json.loads, shown.out.splitlines())
    assert list(found["experts"]) == ["law", "sea"]
    values = [found[key]["whole_passage"] for key in ("base", "composed")]
    values += [each["whole_passage"] for each in found["experts"].values()]
    assert len({row["bits_per_byte"]["value"] for row in values}) == 4
    assert {row["model"] for row in rows} == {"base", "law", "sea", "composed (ensemble posterior)"}
    assert "whole_passage bits_per_byte" in shown.err
    assert "|whole_passage|" in shown.err


@pytest.mark.parametrize("form", ["--use_cache PATH", "--use_cache=PATH", "-c PATH", "-cPATH", "--config FILE"])
def test_each_voice_keeps_its_own_answers(library, capsys, tmp_path, form):
    """lm_eval finds a kept answer by its question alone: one file for all voices would give all of them the first's."""
    kept, file = tmp_path / "kept" / "answers", tmp_path / "run.yaml"
    file.write_text(f"use_cache: {kept}\n")
    asked = form.replace("PATH", str(kept)).replace("FILE", str(file)).split()
    command = [*words(library, "--each"), "--tasks", "whole_passage", *asked, "--json"]
    again = []
    for _ in range(2):
        code = main(command)
        shown = capsys.readouterr()
        assert code == 0, shown.err
        again.append(json.loads(shown.out.splitlines()[-1]))
    found = [again[0]["base"], again[0]["composed"], *again[0]["experts"].values()]
    assert len({each["whole_passage"]["bits_per_byte"]["value"] for each in found}) == 4
    assert again[0] == again[1]
    voices = {path.name.removeprefix("answers-").partition("_rank")[0] for path in kept.parent.glob("*.db")}
    assert voices == {"base", "law", "sea", COMPOSED}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--tasks", "whole_pasage"], "Tasks not found: whole_pasage"),
        (["--tasks", "whole_passage", "--model_args", "ref=LIB,experts=lwa"], "Did you mean 'law'"),
        (["--tasks", "whole_passage", "--model_args", "ref=LIB,bach_size=4"], "Did you mean 'batch_size'"),
        (["--tasks", "whole_passage", "--gen_kwargs", "nonsense"], "nonsense"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(library, capsys, change, told):
    change = [word.replace("LIB", str(library.path)) for word in change]
    assert main([*words(library), *change]) == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert "Traceback" not in shown.err


def test_each_needs_experts(library, capsys, pico_folder):
    end = ["--include_path", TASKS, "--limit", "1", "--tasks", "whole_passage"]
    for model in (["dummy"], ["collegium", "--model_args", f"ref={pico_folder}"]):
        assert main(["lm-eval", "--each", "--model", *model, *end]) == 2
        assert "--each" in capsys.readouterr().err


def test_without_lm_eval_the_install_line_is_told(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["lm-eval", "run"]) == 2
    assert "pip install 'collegium[lm-eval]'" in capsys.readouterr().err
    with pytest.raises(cg.CollegiumError):
        require_lm_eval()


def test_model_args_are_checked():
    assert harness_config({"ref": "lib", "batch_size": 3}, {"batch_size": 1, "device": "cuda:0"}).batch_size == 3
    assert harness_config({"ref": "lib"}, {"batch_size": "auto:4", "max_batch_size": 2}).batch_size == 2
    assert harness_config({"ref": "lib"}, {"device": "cuda:0"}).device in {"auto", "cuda"}
    assert harness_config({"ref": "lib"}, {"device": "cpu"}).device == "cpu"
    found = harness_config({"ref": "lib", "experts": "law+sea", "router": "posterior", "top_k": 1})
    assert found.reference == "lib?experts=law,sea&router=posterior&top_k=1"
    assert harness_config({"ref": 12}).reference == "12"
    for arguments, told in (
        ({}, "ref names the model"),
        ({"ref": "lib", "batch_size": 0, "context": "x"}, "batch_size.*context"),
        ({"ref": "lib", "exprts": "law"}, "Did you mean 'experts'"),
    ):
        with pytest.raises(ConfigError, match=told):
            harness_config(arguments)
    for ref in ("lib#law", "lib?router=uniform", "hf:a/b"):
        with pytest.raises(ConfigError, match="whole library"):
            HarnessConfig(ref=ref, experts="law").reference  # noqa: B018 - the property raises


def test_results_are_read_as_numbers():
    found = measured(
        {"results": {"t": {"alias": "t", "acc,none": 0.5, "acc_stderr,none": 0.1, "f1,first": float("inf")}}}
    )
    assert [(each.metric, each.filter, each.value, each.stderr) for each in found] == [
        ("acc", "none", 0.5, 0.1),
        ("f1", "first", None, None),
    ]


def test_where_lm_eval_writes_is_known(tmp_path):
    assert output_path(["--output_path", "a"]) == "a"
    assert output_path(["-o", "b"]) == "b"
    file = tmp_path / "run.yaml"
    file.write_text("output_path: c\n")
    assert output_path(["run", "--config", str(file)]) == "c"
    assert output_path(["run", "--config=nothing.yaml"]) is None
