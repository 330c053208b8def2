"""Mistakes in composing experts, walked through on the command line: each is answered and leaves every file as it was.

Every answer is exit code 2 and a sentence with the rule, the value and the way out. A full cache is the engine's own
business, which no command opens: `tests/infer/test_engine_limits.py`.
"""

import hashlib
import json
import shutil

import pytest
from composition_world import DELTALESS
from safetensors.torch import load_file, save_file

from collegium.experts import save_expert
from collegium.testing.pico import random_expert

CONTEXT = 512
"""Tokens that the pico base reads."""


def merge(expression, *more, library="college"):
    return ("library", "merge", expression, "--library", library, "--as", "x", *more)


def speak(reference, *more):
    return ("generate", "x", "--model", reference, "--tokens", "2", *more)


def test_the_libraries_are_sound(ask, world):
    for path in sorted(world.glob("*/collegium.json")):
        assert ask("library", "verify", "--library", path.parent)[0] == 0, path


# -- other bases, other kinds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("--method", "average"), ("--method", "ties")])
def test_other_kinds(refused, more):
    expression = "law, the-ia3" if more else "law + the-ia3"
    says = ("one kind are merged", "ia3 (the-ia3) and lora (law)", "use mix or ensemble")
    refused(*merge(expression, *more, library="kinds"), says=says)


def test_an_expert_of_another_base_does_not_come_in(refused, bases):
    says = ("'law' was made for base", bases["other"].fingerprint.short, bases["pico"].fingerprint.short, "Train it")
    refused("library", "add", "foreign/experts/law", "--library", "college", "--as", "guest", says=says)


@pytest.mark.parametrize(
    "words",
    [
        merge("law + guest", library="{mixed}"),
        merge("law, guest", "--method", "average", library="{mixed}"),
        speak("{mixed}?compose=ensemble&router=uniform"),
        speak("{mixed}?compose=mix&router=uniform"),
        speak("{mixed}?compose=merge&router=uniform"),
        speak("{mixed}#guest"),
        ("library", "export", "law", "guest", "--library", "{mixed}", "--to", "vllm", "--out", "{mixed}-out"),
        ("library", "export", "guest", "--library", "{mixed}", "--to", "merged", "--out", "{mixed}-out"),
    ],
)
def test_an_expert_of_another_base_that_lies_there_is_told(refused, bases, world, tmp_path, words):
    mixed = shutil.copytree(world / "college", tmp_path / "mixed")
    save_expert(random_expert(bases["other"], name="guest"), mixed / "experts" / "guest")
    says = ("'guest' was made for base", bases["other"].fingerprint.short, bases["pico"].fingerprint.short, "Train it")
    refused(*(str(word).format(mixed=mixed) for word in words), says=says, root=tmp_path)


# -- expressions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("lwa", ("character 1", "no expert 'lwa'. Did you mean 'law'?")),
        ("code - 0.5*lwa", ("character 12", "no expert 'lwa'. Did you mean 'law'?")),
        ("läw", "no expert 'läw'. Did you mean 'law'?"),
        ("'l w'", "no expert 'l w'. Did you mean 'law'?"),
        ("law" * 9000, ("no expert 'lawlaw", "characters more. Known: code, law.")),
        ("__import__('os').system('touch pwned')", ("no function '__import__'", "Known: average, dare, ties")),
        ("open('pwned', 'w')", "no function 'open'"),
        ("law.__class__", ("character 4", "a sign (+ - * / ,) or the end is expected")),
        ("(lambda: law)()", "no expert 'lambda'"),
        ("[law for law in ()]", "an expert, a number or ( is expected"),
        ("law; code", "character 4"),
        ("law ** 2", "an expert, a number or ( is expected, got '* 2'"),
        ("`touch pwned`", "an expert, a number or ( is expected"),
        ("law\x00", "or the end is expected"),
        ("0.5×law", "or the end is expected, got '×law'"),  # noqa: RUF001 - what people write
        ("\N{MINUS SIGN}law", "an expert, a number or ( is expected"),
        ("(" * 50_000 + "law", ("nested too deeply", "characters more, at character 61")),
        ("+".join(["law"] * 3000), ("too long, with more than 400 signs", "characters more")),
        ("law * code", "multiplied and divided by numbers, not by experts"),
        ("law / 0", "division by zero; divide by another number"),
        ("law / (2 - 2)", "division by zero"),
        ("1 / 0 * law", "division by zero"),
        ("law +", ("character 6", "got 'the end'")),
        ("", ("nothing to merge", "0.6*law + 0.4*code")),
        (" \t\n", "nothing to merge"),
        ("()", "an expert, a number or ( is expected, got ')'"),
        ("average()", "an expert, a number or ( is expected"),
        ("average(law; density=1)", "no option 'density'. It takes none"),
        ("0.5", ("names no expert", "write which")),
        ("law - law", ("no change at all", "Weigh the experts otherwise")),
    ],
)
def test_expressions_are_read_and_never_run(refused, expression, says):
    refused(*merge(expression), says=says)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (merge("nan*law"), ("a weight is a finite number", "got 'nan*law'")),
        (merge("law + Infinity"), "a weight is a finite number"),
        (merge("1e999*law"), ("finite number", "1e999")),
        (merge("9" * 5000 + "*law"), "finite number"),
        (merge("1e308*10*law"), ("finite numbers", "got inf")),
        (merge("(1e308*10 - 1e308*10)*law"), ("finite numbers", "got nan")),
        (merge("law / 1e-320"), ("finite numbers", "got inf")),
        (merge("1e38*10*law"), ("at most 3.4e+38", "weigh less")),
        (merge("1e60*law + code"), ("at most 3.4e+38", "weigh less")),
        (merge("ties(law, code; scale=1e39)"), ("at most 3.4e+38", "weigh less")),
        (merge("1e39*the-ia3", library="kinds"), ("at most 3.4e+38", "weigh less")),
        (merge("1e-60*law"), "no change at all"),
        (merge("ties(law, code; density=nan)"), "density is a number"),
        (merge("law, code", "--method", "ties", "--density", "nan"), ("density is the share", "got nan")),
        (speak("college", "--experts", "law=nan"), ("simplex", "'law': nan", "compose=merge")),
        (speak("college?compose=merge", "--experts", "law=1e999"), ("must be finite", "'law': inf")),
        (speak("college?router=arrow:temperature=nan"), ("finite number", "got nan")),
        (
            ("library", "export", "law", "--library", "college", "--to", "merged", "--out", "o", "--weights=law=nan"),
            ("must be finite", "'law': nan"),
        ),
    ],
)
def test_weights_are_finite(refused, words, says):
    refused(*words, says=says)


@pytest.mark.parametrize("rank", [33, 999, -1, 10**20])
@pytest.mark.parametrize("more", [("law + code",), ("law, code", "--method", "ties")])
def test_ranks_are_no_larger_than_the_matrix(refused, rank, more):
    says = ("a rank is 1 to 32, the size of model.layers.0.self_attn.k_proj", f"got {rank}")
    refused(*merge(*more, "--rank", rank), says=says)


NAN = [
    merge("law + code", library="{broken}"),
    speak("{broken}?compose=ensemble&router=uniform"),
    speak("{broken}?router=arrow"),
    speak("{broken}#law"),
    ("library", "export", "law", "--library", "{broken}", "--to", "gguf", "--out", "{broken}-out"),
    ("library", "export", "law", "--library", "{broken}", "--to", "merged", "--out", "{broken}-out"),
    ("library", "add", "{broken}/experts/law", "--library", "college", "--as", "guest"),
]


@pytest.mark.parametrize("words", NAN)
@pytest.mark.parametrize(("sealed", "says"), [(False, "sha256 differs"), (True, "holds NaN or infinity")])
def test_a_file_with_a_nan_is_told(refused, world, tmp_path, words, sealed, says):
    broken = shutil.copytree(world / "college", tmp_path / "broken")
    file = broken / "experts" / "law" / "adapter_model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    tensors[min(tensors)][0, 0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    if sealed:  # a card that agrees with the damage
        card = file.with_name("card.json")
        raw = json.loads(card.read_text())
        raw["payload"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
        card.write_text(json.dumps(raw))
    says = ("experts/law", says, "train the expert again" if sealed else "Get the expert again")
    refused(*(str(word).format(broken=broken) for word in words), says=says, root=tmp_path)


# -- routing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        *((speak(f"college?compose=ensemble&router={gate}"), (repr(gate), "Use mix")) for gate in ("xlora", "arrow")),
        *((speak(f"college?compose=merge&router={gate}"), (repr(gate), "Use mix")) for gate in ("xlora", "arrow")),
        (("eval", "texts", "--model", "college?compose=ensemble&router=xlora", "--context", "8"), "compose=mix"),
        (speak("college?compose=ensemble", "--experts", "law=1.5,code=-.5"), ("simplex", "'law': 1.5", "merge alone")),
        (speak("college?compose=mix", "--experts", "law=-1"), ("simplex", "'law': -1.0", "merge alone")),
        (speak("college?compose=ensemble", "--experts", "law=.9,code=.9"), ("at most 1", "got 1.8")),
        (speak("college?compose=merge", "--experts", "lwa=1"), ("['lwa']", "Did you mean 'law'?")),
    ],
)
def test_open_weights_are_no_ensembles(refused, words, says):
    refused(*words, says=says)


REMOVE = "`collegium library remove {0} --library LIB` takes it away; then `collegium router fit {0} DATA"


@pytest.mark.parametrize(
    ("library", "gate", "says"),
    [
        ("grown", "phatgoose", ("fitted without ['new']", "router fit phatgoose DATA")),
        ("grown", "xlora", ("is stale", "new came", "router fit xlora DATA")),
        ("twins", "phatgoose", ("fitted without ['code', 'law']", "router fit phatgoose DATA")),
        ("twins", "xlora", ("is stale", "code, law changed", "router fit xlora DATA")),
        ("foreign", "phatgoose", ("learnt inside base", REMOVE.format("phatgoose"))),
        ("foreign", "xlora", ("learnt inside base", REMOVE.format("xlora"))),
        ("empty", "arrow", ("holds no language expert", "collegium train")),
        ("deltaless", "arrow", ("'the-prefix' is of kind prefix", "Leave it out")),
        ("deltaless", "xlora", ("never fitted", "router fit xlora")),
    ],
)
def test_gates_of_another_state_or_base(refused, library, gate, says):
    refused(*speak(f"{library}?router={gate}"), says=says)
    if library != "empty":
        refused("router", "eval", "texts", "--model", f"{library}?router={gate}", "--context", 8, says=says)


def test_a_foreign_fit_is_told_before_another_is_learnt(refused):
    refused("router", "fit", "phatgoose", "texts", "--library", "foreign", says=REMOVE.format("phatgoose"))


@pytest.mark.recipe
@pytest.mark.parametrize("gate", ["phatgoose", "xlora"])
def test_the_way_out_of_a_foreign_or_a_damaged_fit_leads_out(ask, refused, world, tmp_path, gate):
    library = shutil.copytree(world / "college", tmp_path / "damaged")
    file = next((library / "routers" / gate).glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-4])
    says = (f"router {gate!r} is damaged", f"`collegium library remove {gate}`")
    refused(*speak(f"{library}?router={gate}"), says=says, root=tmp_path)
    foreign = shutil.copytree(world / "foreign", tmp_path / "foreign")
    words = ("--steps", 1, "--window", 32, "--batch", 1, "--dev-tokens", 32, "--memory-tokens", 64)
    for path in (library, foreign):
        assert ask("library", "remove", gate, "--library", path)[0] == 0
        code, _, shown = ask("router", "fit", gate, "texts", "--library", path, *words)
        assert code == 0, shown
        assert ask(*speak(f"{path}?router={gate}"))[0] == 0


# -- kinds without a delta, nothing chosen, too long ------------------------------------------------------------------


@pytest.mark.parametrize("kind", DELTALESS)
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (merge("law + the-{kind}", library="kinds"), ("no change of the base's numbers", "Use mix or ensemble")),
        (merge("the-{kind}", library="kinds"), "no change of the base's numbers"),
        (merge("law, the-{kind}", "--method", "ties", library="kinds"), "no change of the base's numbers"),
        (speak("kinds?experts=law,the-{kind}&compose=merge&router=uniform"), ("folds changes", "Use mix or ensemble")),
        (speak("kinds?experts=the-{kind}&compose=merge", "--experts", "the-{kind}=2"), "folds changes"),
        (speak("kinds?experts=law,the-{kind}&router=arrow"), ("low-rank", "Leave it out")),
        (("library", "derive", "subtract", "--library", "kinds", "--experts", "the-{kind}"), "low-rank experts"),
        *(
            (
                ("library", "export", "the-{kind}", "--library", "kinds", "--to", form, "--out", "out"),
                (f"{form} has no form", "can be copied as it is"),
            )
            for form in ("vllm", "lorax", "gguf", "merged")
        ),
        (
            ("library", "export", "--model", "kinds#the-{kind}", "--to", "merged", "--out", "out"),
            ("merged has no form", "can be copied as it is"),
        ),
    ],
)
def test_kinds_for_which_a_delta_has_no_meaning(refused, kind, words, says):
    told = (says,) if isinstance(says, str) else says
    refused(*(str(word).format(kind=kind) for word in words), says=(*told, f"the-{kind}", f"kind {kind!r}")[:-1])


ADD = "collegium train"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (speak("empty"), ("no language expert", ADD)),
        *((speak(f"empty?compose={how}&router=uniform"), ADD) for how in ("ensemble", "mix", "merge")),
        (speak("college?experts="), ("'experts' has no value", "LIB?experts=a,b")),
        (speak("college?experts=,"), ("got ','", "LIB?experts=a,b")),
        (speak("college?experts=base"), ("is not chosen", "LIB?experts=a,b")),
        (speak("college", "--experts", ","), "NAME=WEIGHT"),
        (merge("", "--method", "average", library="empty"), ("no language expert of kind lora or ia3", "train one")),
        (merge("", "--method", "average", library="deltaless"), ("kind lora or ia3", "use mix or ensemble")),
        (merge("law", library="empty"), "no expert 'law'"),
        (("eval", "texts", "--model", "empty"), ADD),
        (("compare", "texts", "--library", "empty"), ADD),
        *((("router", "fit", fit, "texts", "--library", "empty"), ADD) for fit in ("xlora", "phatgoose", "classifier")),
        (("router", "fit", "arrow", "--library", "empty"), ADD),
        *(
            (("library", "derive", what, "--library", library), ("low-rank", ADD))
            for what in ("prototypes", "clusters", "subtract")
            for library in ("empty", "deltaless")
        ),
        *(
            (("library", "export", "--library", "empty", "--to", form, "--out", "out"), ADD)
            for form in ("peft", "vllm", "merged")
        ),
    ],
)
def test_nothing_is_chosen(refused, words, says):
    refused(*words, says=says)


@pytest.mark.parametrize(
    "reference",
    ["{base}", "college#law", *(f"college?compose={how}&router=uniform" for how in ("ensemble", "mix", "merge")),
     "college?router=arrow", "college?router=xlora", "college?router=posterior&compose=ensemble&prune=1e-3"],
)  # fmt: skip
@pytest.mark.parametrize("tokens", [CONTEXT, CONTEXT + 88])
def test_prompts_longer_than_the_base_reads(refused, folders, reference, tokens):
    model = reference.format(base=folders["pico"])
    says = (f"reads at most {CONTEXT} tokens, the prompt has {tokens}", "cut the prompt")
    refused("generate", "a" * tokens, "--model", model, says=says)


@pytest.mark.parametrize(
    "words",
    [
        ("eval", "texts", "--model", "college?compose=mix&router=uniform"),
        ("compare", "texts", "--library", "college"),
        ("router", "fit", "xlora", "texts", "--library", "college"),
        ("router", "eval", "texts", "--model", "college?router=arrow"),
        merge("law, code", "--method", "soup", "--data", "texts"),
        merge("law, code", "--method", "regmean", "--texts", "texts"),
    ],
)
def test_windows_longer_than_the_base_reads(refused, words):
    refused(*words, "--window", 600, says=(f"reads at most {CONTEXT} tokens, got", "cut the text or the window"))


def test_a_merge_takes_weights_of_any_size(ask, world):
    """The way out of weights that are no simplex leads out."""
    found = {}
    for experts in ("law=1.5,code=-.5", "law=1", "law=1,code=0"):
        code, found[experts], shown = ask(*speak("college?compose=merge", "--experts", experts))
        assert code == 0, shown
    assert found["law=1,code=0"]["log_prob_nats"] == found["law=1"]["log_prob_nats"]
    assert found["law=1.5,code=-.5"]["log_prob_nats"] != found["law=1"]["log_prob_nats"]
