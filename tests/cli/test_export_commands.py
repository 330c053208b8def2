"""`library export` and `library add --convert-rank`: what is written is what was asked for, or nothing is."""

import json
import resource
import shlex

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from collegium.compose import merge
from collegium.core.cards import ExpertCard
from collegium.core.errors import IncompatibleExpert, LibraryError
from collegium.experts import AdapterPayload, Expert, WholePayload, adapter_payload, read_peft
from collegium.experts.export import FORMATS, MERGED, check_kinds
from collegium.library import Library
from collegium.models import KINDS, RowPlan, load_base, load_config
from collegium.recipes import export
from collegium.testing.library import snapshot
from collegium.testing.pico import pico_base, random_adapter, random_expert

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def base(pico_folder):
    return load_base(str(pico_folder))


def expert(base, name, seed=0, **settings):
    card = ExpertCard(name=name, kind="lora", base=base.fingerprint)
    return Expert(card, adapter_payload(base, random_adapter(base, seed, **settings)))


@pytest.fixture
def library(base, pico_folder, tmp_path):
    made = Library(tmp_path / "college", base=base, base_reference=str(pico_folder))
    made.add(expert(base, "law", 1))
    made.add(expert(base, "code", 2, rank=2, layers=[1]))
    return made


def tokens():
    return torch.randint(0, 250, (2, 9), generator=torch.Generator().manual_seed(2))


def test_a_peft_folder_means_the_same_to_peft(ask, base, library, pico_folder, tmp_path):
    out = tmp_path / "out"
    code, found, _ = ask("library", "export", "law", "--library", library.path, "--to", "peft", "--out", out)
    assert (code, found["adapters"], found["experts"]) == (0, {"law": str(out)}, ["law"])
    assert sorted(found["files"]) == ["adapter_config.json", "adapter_model.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == sorted(found["files"])
    kept = library.path / "experts" / "law"
    assert all((out / name).read_bytes() == (kept / name).read_bytes() for name in found["files"])
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(pico_folder), out).eval()
    with torch.no_grad():
        expected = theirs(tokens()).logits.log_softmax(-1)
    ours = read_peft(out, base)
    base.attach("ours", ours.payload.adapter)
    found = base.logprobs_rows(tokens(), plan=RowPlan.one("ours"))[0]
    base.detach("ours")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["ia3", "prefix"])
def test_the_other_kinds_that_peft_knows_mean_the_same_to_it(ask, base, library, pico_folder, kind, tmp_path):
    library.add(random_expert(base, kind=kind, name="other"))
    words = ["library", "export", "other", "--library", library.path, "--to", "peft", "--out", tmp_path / "out"]
    assert ask(*words, "--dry-run")[1]["experts"] == ["other"]
    assert ask(*words)[0] == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(pico_folder), tmp_path / "out").eval()
    with torch.no_grad():
        expected = theirs(input_ids=tokens(), attention_mask=torch.ones_like(tokens())).logits.log_softmax(-1)
    base.attach("ours", library["other"].payload.adapter)
    found = base.logprobs_rows(tokens(), plan=RowPlan.one("ours"))[0]
    base.detach("ours")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(found, base.logprobs(tokens()), atol=1e-3)


def test_prefixes_that_peft_cannot_say_are_refused_before_anything_is_written(ask, base, library, tmp_path):
    whole = random_expert(base, kind="prefix", name="other")
    path, part = next(iter(whole.payload.adapter.items()))
    library.add(Expert(whole.card, AdapterPayload({path: part})))
    words = ["library", "export", "other", "--library", library.path, "--to", "peft", "--out", tmp_path / "out"]
    for plan in ([], ["--dry-run"]):
        code, _, shown = ask(*words, *plan)
        assert code == 2
        assert "PEFT keeps prefixes" in shown
    assert not (tmp_path / "out").exists()


def test_of_several_each_has_a_folder(ask, library, tmp_path):
    code, found, _ = ask("library", "export", "--library", library.path, "--to", "peft", "--out", tmp_path / "out")
    assert (code, found["experts"]) == (0, ["code", "law"])
    assert (tmp_path / "out" / "law" / "adapter_config.json").is_file()


def test_the_line_for_vllm_names_base_and_experts(ask, library, pico_folder, tmp_path):
    out = tmp_path / "out"
    code, found, shown = ask("library", "export", "--library", library.path, "--to", "vllm", "--out", out)
    assert code == 0
    words = shlex.split(found["command"])
    assert words[:3] == ["vllm", "serve", str(pico_folder)]
    assert words[-2:] == [f"code={out}/code", f"law={out}/law"]
    assert "vllm serve" in shown
    assert (out / "law" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("form", ["lorax", "gguf"])
def test_the_other_forms_are_written(ask, library, form, tmp_path):
    code, found, _ = ask("library", "export", "law", "--library", library.path, "--to", form, "--out", tmp_path / "out")
    assert (code, found["format"], found["written"]) == (0, form, True)
    for path in found["adapters"].values():
        assert path.startswith(str(tmp_path / "out"))
    assert all((tmp_path / "out" / name).stat().st_size == size for name, size in found["files"].items())


def same_model(folder, expected):
    """transformers, and load_base, read a checkpoint as the model that is expected."""
    found = load_base(str(folder))
    assert torch.equal(found.logprobs(tokens()), expected.logprobs(tokens()))
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = theirs(tokens()).logits.log_softmax(-1)
    torch.testing.assert_close(logits, expected.logprobs(tokens()), rtol=0, atol=1e-5)
    assert AutoTokenizer.from_pretrained(folder).encode("To be") == [84, 111, 32, 98, 101]


@pytest.mark.parametrize(
    ("words", "weights"),
    [
        (["law"], {"law": 1.0}),
        (["law", "code", "--weights", "law=0.6,code=-0.4"], {"law": 0.6, "code": -0.4}),
        (["--weights", "law=0.5"], {"law": 0.5}),
    ],
)
def test_a_merged_checkpoint_is_the_merge(ask, base, library, words, weights, tmp_path):
    out = tmp_path / "out"
    code, found, _ = ask("library", "export", *words, "--library", library.path, "--to", "merged", "--out", out)
    assert (code, found["weights"], found["dtype"]) == (0, weights, "float32")
    same_model(out, merge(base, library, weights=weights))
    assert not torch.allclose(load_base(str(out)).logprobs(tokens()), base.logprobs(tokens()), atol=1e-3)
    assert (out / "model.safetensors").stat().st_mode & 0o777 == (out / "config.json").stat().st_mode & 0o777


@pytest.mark.parametrize(
    ("ending", "weights"),
    [
        ("?compose=merge", {"law": 0.5, "code": 0.5}),
        ("?compose=merge&experts=law", {"law": 1.0}),
        ("#law", {"law": 1.0}),
    ],
)
def test_a_merged_checkpoint_of_a_reference(ask, base, library, ending, weights, tmp_path):
    code, found, _ = ask(
        "library", "export", "--model", f"{library.path}{ending}", "--to", "merged", "--out", tmp_path / "out"
    )
    assert (code, sorted(found["experts"])) == (0, sorted(weights))
    same_model(tmp_path / "out", merge(base, library, weights=weights))


def test_whole_models_are_averaged(ask, base, library, tmp_path):
    for seed, name in ((1, "first"), (2, "second")):
        library.add(
            Expert(ExpertCard(name=name, kind="whole", base=base.fingerprint), WholePayload(pico_base(seed).model))
        )
    words = ["first", "second", "--weights", "first=1,second=3"]
    code, _, _ = ask(
        "library", "export", *words, "--library", library.path, "--to", "merged", "--out", tmp_path / "out"
    )
    assert code == 0
    state = load_base(str(tmp_path / "out")).model.state_dict()
    first, second = (pico_base(seed).model.state_dict() for seed in (1, 2))
    for key, tensor in state.items():
        torch.testing.assert_close(tensor, 0.25 * first[key] + 0.75 * second[key])


def test_a_checkpoint_in_bfloat16(ask, library, tmp_path):
    out = tmp_path / "out"
    words = ["law", "--library", library.path, "--to", "merged", "--out", out, "--dtype", "bfloat16"]
    code, found, _ = ask("library", "export", *words)
    assert (code, found["dtype"]) == (0, "bfloat16")
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16


MISTAKES = [
    (["law", "--library", "{library}", "--to", "ggf"], "Did you mean 'gguf'?"),
    (["lav", "--library", "{library}", "--to", "peft"], "Did you mean 'law'?"),
    (["law", "law", "--library", "{library}", "--to", "vllm"], "named once"),
    (["law", "--to", "peft"], "give --library"),
    (["law", "--library", "{library}", "--to", "peft", "--weights", "law=1"], "--to merged"),
    (["--model", "{library}?compose=merge", "--to", "peft"], "--to merged"),
    (["law", "--model", "{library}?compose=merge", "--to", "merged"], "says it all"),
    (["--library", "{library}", "--to", "merged"], "needs --weights"),
    (["law", "--library", "{library}", "--to", "merged", "--weights", "lav=1"], "one place alone. Did you mean 'law'?"),
    (["law", "--library", "{library}", "--to", "merged", "--weights", "law=x"], "--weights is NAME=WEIGHT"),
    (["law", "--library", "{library}", "--to", "merged", "--weights", "law=nan"], "finite"),
    (["law", "--library", "{library}", "--to", "merged", "--base", "x"], "leave out --base"),
    (["--model", "{library}", "--to", "merged"], "composed by ensemble"),
    (["--model", "{library}?compose=mix", "--to", "merged"], "composed by mix"),
    (["--model", "{library}#lav", "--to", "merged"], "Did you mean 'law'?"),
    (["--model", "smollm2-135m", "--to", "merged"], "base without experts"),
    (["law", "--library", "{library}", "--to", "vllm", "--base", "no-such-base"], "no base is called"),
    (["law", "--library", "{tmp}/nowhere", "--to", "peft"], "nowhere"),
]


@pytest.mark.parametrize(("words", "lesson"), MISTAKES)
@pytest.mark.parametrize("plan", [[], ["--dry-run"]])
def test_mistakes_are_answered_and_nothing_is_written(ask, library, words, lesson, plan, tmp_path):
    before = snapshot(tmp_path)
    words = [word.format(library=library.path, tmp=tmp_path) for word in words]
    code, found, shown = ask("library", "export", *words, "--out", tmp_path / "out", *plan)
    assert (code, found) == (2, None)
    assert lesson in " ".join(shown.split())
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("form", [*FORMATS, MERGED])
@pytest.mark.parametrize(("place", "lesson"), [("file", "is a file"), ("full", "is not empty")])
def test_a_place_that_is_taken_is_refused(ask, library, form, place, lesson, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "theirs").write_text("x")
    before = snapshot(tmp_path)
    code, _, shown = ask("library", "export", "law", "--library", library.path, "--to", form, "--out", tmp_path / place)
    assert code == 2
    assert lesson in shown
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("form", [*FORMATS, MERGED])
def test_a_full_disk_is_told_and_nothing_is_half_written(ask, library, form, tmp_path):
    words = ["library", "export", "law", "--library", library.path, "--to", form, "--out", tmp_path / "out"]
    before = snapshot(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        code, found, shown = ask(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, found) == (2, None)
    assert "no space left" in shown
    assert snapshot(tmp_path) == before
    assert ask(*words)[0] == 0


@pytest.mark.parametrize("form", [*FORMATS, MERGED])
def test_a_plan_says_what_would_be_written(ask, library, form, tmp_path):
    before = snapshot(tmp_path)
    words = ["law", "--library", library.path, "--to", form, "--out", tmp_path / "out", "--dry-run"]
    code, found, shown = ask("library", "export", *words)
    assert (code, found["experts"], found["written"]) == (0, ["law"], False)
    assert f"would write law as {form}" in shown
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("form", "kind"),
    [(form, kind) for form in FORMATS for kind in (*KINDS, "whole") if kind not in FORMATS[form].kinds],
)
def test_kinds_without_a_form_are_refused_by_name(form, kind, base):
    made = Expert(ExpertCard(name="first", kind="whole", base=base.fingerprint), WholePayload(pico_base(1).model))
    object.__setattr__(made, "card", ExpertCard(name="first", kind=kind, base=base.fingerprint))
    with pytest.raises(IncompatibleExpert, match=f"'first' is of kind '{kind}', for which {form} has no form"):
        check_kinds([made], FORMATS[form].kinds, form=form)


@pytest.mark.parametrize("form", FORMATS)
def test_a_whole_model_is_refused_by_the_command(ask, base, library, form, tmp_path):
    library.add(Expert(ExpertCard(name="whole", kind="whole", base=base.fingerprint), WholePayload(pico_base(1).model)))
    words = ["whole", "--library", library.path, "--to", form, "--out", tmp_path / "out"]
    code, _, shown = ask("library", "export", *words)
    assert code == 2
    assert "'whole' is of kind 'whole'" in shown
    assert not (tmp_path / "out").exists()


def test_a_base_that_the_library_cannot_name_is_asked_for(ask, base, pico_folder, tmp_path):
    made = Library(tmp_path / "made", base=base.fingerprint)
    made.add(expert(base, "law"))
    words = ["library", "export", "law", "--library", made.path, "--to", "vllm", "--out", tmp_path / "out"]
    code, _, shown = ask(*words)
    assert code == 2
    assert "give --base" in shown
    assert ask(*words, "--base", pico_folder)[0] == 0


def test_an_empty_library_is_told(ask, base, pico_folder, tmp_path):
    made = Library(tmp_path / "made", base=base, base_reference=str(pico_folder))
    code, _, shown = ask("library", "export", "--library", made.path, "--to", "vllm", "--out", tmp_path / "out")
    assert code == 2
    assert "holds no expert" in shown


def test_a_base_is_named_as_servers_find_it(pico_folder, monkeypatch, tmp_path):
    assert export.served_base(str(pico_folder)).name == str(pico_folder)
    monkeypatch.setattr(export, "load_config", lambda _: load_config(pico_folder))
    hub = export.served_base("hf:owner/name@v1")
    assert (hub.name, hub.revision) == ("owner/name", "v1")
    monkeypatch.setenv("COLLEGIUM_CACHE", str(tmp_path))
    pinned = export.served_base("smollm2-135m")
    assert pinned.name.startswith("/")
    assert "smollm2-135m" in pinned.name


# -- adapters of PEFT's other kinds come in ---------------------------------------------------------------------


@pytest.fixture
def loha(pico_folder, tmp_path):
    config = peft.LoHaConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"])
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(pico_folder), config)
    draw = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=draw) * 0.3
    model.save_pretrained(tmp_path / "loha")
    return tmp_path / "loha"


@pytest.mark.filterwarnings("always::collegium.library.UnverifiedBase")
def test_an_adapter_of_another_kind_is_converted(ask, library, loha, tmp_path):
    words = ["library", "add", loha, "--library", library.path]
    code, _, shown = ask(*words)
    assert code == 2
    assert "type 'LOHA'; --convert-rank R" in shown
    code, found, shown = ask(*words, "--convert-rank", 8, "--as", "guest", "--dry-run")
    assert (code, found["would_add"]) == (0, "guest")
    code, found, shown = ask(*words, "--convert-rank", 8, "--as", "guest")
    assert (code, found["added"]) == (0, "guest")
    assert "converted from LOHA to LoRA of rank 8: its changes are off by" in shown
    recipe = library.card("guest").recipe
    assert (recipe["peft_type"], recipe["rank"]) == ("LOHA", 8)
    assert 0 < recipe["relative_error"] < 1
    assert library["guest"].payload.lora["model.layers.0.self_attn.q_proj"].rank == 8
    assert ask("library", "export", "guest", "--library", library.path, "--to", "vllm", "--out", tmp_path / "v")[0] == 0


def test_a_new_library_takes_a_converted_expert(ask, loha, pico_folder, tmp_path):
    words = ["library", "add", loha, "--library", tmp_path / "new", "--base", pico_folder, "--trust-base"]
    assert ask(*words, "--convert-rank", 2)[1]["added"] == "loha"


@pytest.mark.parametrize(
    ("place", "rank", "lesson"),
    [
        ("law", 4, "adapters that PEFT saved"),
        ("loha", 400, "at most"),
        ("loha", -2, "at least 1"),
        ("lora", 4, "leave out"),
    ],
)
def test_what_cannot_be_converted_is_told(ask, library, loha, place, rank, lesson, tmp_path):
    kept = library.path / "experts" / "law"
    (tmp_path / "lora").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "lora" / name).write_bytes((kept / name).read_bytes())
    folder = kept if place == "law" else tmp_path / place
    words = ["library", "add", folder, "--library", library.path, "--as", "guest", f"--convert-rank={rank}"]
    code, _, shown = ask(*words)
    assert code == 2
    assert lesson in shown
    assert library.names() == ("code", "law")


def test_a_damaged_configuration_is_told(ask, library, loha):
    (loha / "adapter_config.json").write_text("[")
    code, _, shown = ask("library", "add", loha, "--library", library.path)
    assert code == 2
    assert "adapter_config.json" in shown


def test_chosen_experts_are_those_named(library):
    assert [each.name for each in export.chosen_experts(library, ["law", "code"])] == ["law", "code"]
    with pytest.raises(LibraryError, match="Did you mean 'code'"):
        export.chosen_experts(library, ["cod"])


def test_a_configuration_says_what_its_run_says(library, tmp_path):
    config = export.ExportConfig("gguf", tmp_path / "out", ("law",), library.path)
    card = export.run(config, watch=export_watch())
    assert card.command == "library export"
    assert json.dumps(card.result["files"])


def export_watch():
    from collegium.recipes.watch import Silent

    return Silent()
