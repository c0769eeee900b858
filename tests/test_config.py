"""Recipes: names, types and ranges are checked, settings apply, a dump reads back equal."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proclip.config import MixtureConfig, ParameterRule, Recipe, config_hash, dump, from_dict, load_recipe, to_dict
from proclip.errors import ProclipError

MINIMAL = 'name = "x"\n[tune]\nepochs = 2\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_defaults_are_the_papers(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, 'name = "x"\n[distill]\n[tune]\n'))
    assert recipe.tune is not None and recipe.distill is not None
    assert (recipe.tune.distillation_weight, recipe.tune.ema_decay, recipe.tune.loss.reference_batch) == (
        4e-4,
        0.999,
        512,
    )
    assert (recipe.tune.optim.betas, recipe.tune.optim.eps, recipe.tune.optim.weight_decay) == ((0.9, 0.98), 1e-6, 0.05)
    assert (recipe.adapter.num_blocks, recipe.adapter.expansion, recipe.adapter.input_norm) == (4, 2, "l2")
    assert recipe.distill.loss.reference_batch == 128


def test_a_table_changes_the_fields_own_default(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, 'name = "x"\n[distill.loss]\nstructure = "smooth_l1"\n'))
    assert recipe.distill is not None
    assert (recipe.distill.loss.structure, recipe.distill.loss.reference_batch) == ("smooth_l1", 128)


def test_settings(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    settings = ["tune.ema_decay=0.9", "embedder.model=other", "tune.captions=['a','b']", "distill.epochs=3"]
    settings.append('tune.optim.rules=[{match="^adapter", lr=1e-3}]')
    recipe = load_recipe(path, settings)
    assert recipe.tune is not None and recipe.distill is not None
    assert (recipe.tune.ema_decay, recipe.embedder.model, recipe.tune.captions) == (0.9, "other", ("a", "b"))
    assert recipe.tune.optim.rules == (ParameterRule(match="^adapter", lr=1e-3),)
    assert recipe.distill.epochs == 3


def test_dump_reads_back_equal(tmp_path: Path) -> None:
    settings = ["distill.teacher_captions.name_de=name_en", "distill.captions=['name_de']", "tune.optim.grad_clip=1"]
    recipe = load_recipe(write(tmp_path, MINIMAL), settings)
    again = load_recipe(write(tmp_path, dump(recipe)))
    assert again == recipe
    assert config_hash(again) == config_hash(recipe)
    assert from_dict(Recipe, to_dict(recipe)) == recipe


def test_rules_in_a_recipe(tmp_path: Path) -> None:
    text = '[[tune.optim.rules]]\nmatch = "^image_tower\\\\.hidden"\nlr = 1e-4\n'
    text += '[[tune.optim.rules]]\nmatch = "norm"\nfreeze = true\n'
    recipe = load_recipe(write(tmp_path, MINIMAL + text))
    rules = (ParameterRule(match=r"^image_tower\.hidden", lr=1e-4), ParameterRule(match="norm", freeze=True))
    assert recipe.tune is not None and recipe.tune.optim.rules == rules
    assert load_recipe(write(tmp_path, dump(recipe))) == recipe
    assert config_hash(recipe) != config_hash(load_recipe(write(tmp_path, MINIMAL)))
    with pytest.raises(ProclipError, match=r"unknown key 'tune.optim.rules\[0\].math': did you mean 'match'"):
        load_recipe(write(tmp_path, MINIMAL + '[[tune.optim.rules]]\nmath = "a"\n'))
    with pytest.raises(
        ProclipError, match=r"lr_by_group' is no key any more: write \[\[tune.optim.rules\]\] with match"
    ):
        load_recipe(write(tmp_path, MINIMAL + "[tune.optim.lr_by_group]\nadapter = 1e-3\n"))


def test_mixtures_and_chances_are_tables_in_a_line(tmp_path: Path) -> None:
    text = (
        MINIMAL
        + 'captions = {raw = 0.25, short = 1}\n[data]\ndataset = [{path = "a", weight = 2}, {path = "b", name = "é"}]\n'
    )
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.tune is not None and recipe.tune.captions == {"raw": 0.25, "short": 1.0}
    assert recipe.data.dataset == (MixtureConfig(path="a", weight=2.0), MixtureConfig(path="b", name="é"))
    assert recipe.data.named == "2 x a + b"
    again = load_recipe(write(tmp_path, dump(recipe)))
    assert again == recipe and config_hash(again) == config_hash(recipe)
    assert list(load_recipe(write(tmp_path, text), ["tune.captions=['a']", "data.dataset=x"]).tune.captions) == ["a"]  # type: ignore[union-attr]


def test_hash_changes_with_any_field(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    hashes = {
        config_hash(load_recipe(path, s))
        for s in ([], ["seed=1"], ["tune.loss.structure='smooth_l1'"], ["log.keep_checkpoints=3"])
    }
    assert len(hashes) == 4


@dataclass(frozen=True)
class Inner:
    size: int = 1


@dataclass(frozen=True)
class Before:
    name: str
    inner: Inner = field(default_factory=lambda: Inner(7))
    other: int | None = 3


@dataclass(frozen=True)
class Now(Before):
    added: float = 0.5
    table: Inner = field(default_factory=Inner)


def test_a_field_added_with_a_default_leaves_the_hash(tmp_path: Path) -> None:
    assert config_hash(Before("a")) == config_hash(Now("a"))
    different: list[Before] = [
        Now("a"), Now("b"), Now("a", Inner()), Now("a", Inner(2)), Now("a", other=None), Now("a", other=0),
        Now("a", added=1.0), Now("a", table=Inner(7)),
    ]  # fmt: skip
    assert len({config_hash(config) for config in different}) == len(different)


def test_a_key_that_is_gone_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(ProclipError, match=r"'tune.lock_image' is no key any more: write tune\.image\.mode = 'locked'"):
        load_recipe(write(tmp_path, 'name = "x"\n[tune]\nlock_image = true\n'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not valid TOML"),
        ('name = "x"\n[tune]\nepoch = 2\n', "unknown key 'tune.epoch': did you mean 'epochs'?"),
        ('name = "x"\n[tune]\nepochs = "two"\n', "tune.epochs must be of type int, not 'two'"),
        ('name = "x"\n[tune]\nepochs = true\n', "tune.epochs must be of type int, not True"),
        ('name = "x"\n[tune]\nema_decay = 2\n', r"tune.ema_decay must be in \[0, 1\], not 2.0"),
        ('name = "x"\n[tune.optim]\nbetas = [0.9]\n', "tune.optim.betas must be a list of 2"),
        (
            'name = "x"\n[adapter]\ninput_norm = "l3"\n[tune]\n',
            "adapter.input_norm must be one of 'l2', 'standardize', 'none', not 'l3'",
        ),
        ('name = "x"\n[tune]\ncaptions = {raw = 0}\n', "tune.captions.raw must be a chance above 0, not 0.0"),
        ('name = "x"\n[tune]\n[data]\ndataset = [{path = "a", weight = 0}]\n', r"weight must be above 0, at most 1000"),
        ('name = "x"\n[tune]\n[data]\ndataset = []\n', "data.dataset must be a path, or a list of at least one source"),
        (
            'name = "x"\n[tune]\n[data]\ndataset = [{paht = "a"}]\n',
            r"unknown key 'data.dataset\[0\].paht': did you mean 'path'",
        ),
        ('name = "x"\n[tune]\n[data]\nmax_pixels = 200000000\n', "data.max_pixels must be from 1 to 178956970"),
        ('name = "x"\n[tune]\n[data]\nmax_broken_share = 1\n', r"data.max_broken_share must be in \[0, 1\), not 1.0"),
        ("[tune]\n", "missing key 'name'"),
        ('name = "x"\n', "at least one of"),
        ('name = "x"\ntune = 3\n', "tune must be a table, or 'none' to leave it out, not 3"),
        ('name = "x"\n[tune]\n[pretrain]\n', "the only stage"),
    ],
)
def test_bad_recipes_name_the_field(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ProclipError, match=message) as error:
        load_recipe(write(tmp_path, text))
    assert str(tmp_path / "recipe.toml") in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_settings_and_files(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    with pytest.raises(ProclipError, match=r"write it as key\.subkey=value"):
        load_recipe(path, ["tune.epochs"])
    with pytest.raises(ProclipError, match=r"'tune\.epochs' is a value, not a table"):
        load_recipe(path, ["tune.epochs.x=1"])
    with pytest.raises(ProclipError, match="no recipe at"):
        load_recipe(tmp_path / "nowhere.toml")


def test_extends_lays_a_recipe_over_others(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "one.toml").write_text('name = "one"\nseed = 3\n[tune]\nepochs = 2\ncaptions = ["short"]\n')
    (tmp_path / "two.toml").write_text('name = "two"\n[distill]\nepochs = 5\n')
    path = tmp_path / "three.toml"
    path.write_text('extends = ["base/one.toml", "two.toml"]\nname = "three"\n[tune]\ncaptions = ["long", "raw"]\n')
    recipe = load_recipe(path, ["tune.batch_size=8"])
    assert (recipe.name, recipe.seed) == ("three", 3)
    assert recipe.distill is not None and recipe.distill.epochs == 5
    assert recipe.tune is not None
    assert (recipe.tune.epochs, recipe.tune.captions, recipe.tune.batch_size) == (2, ("long", "raw"), 8)
    assert "extends" not in dump(recipe)


def test_a_recipe_with_a_byte_order_mark_is_read_and_one_of_brackets_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('name = "a"\n[tune]\n', encoding="utf-8-sig")
    assert load_recipe(path).name == "a"
    path.write_text("name = " + "[" * 5000)
    with pytest.raises(ProclipError, match=r"a\.toml is not valid TOML: nested too deeply"):
        load_recipe(path)


def test_bad_extends(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('extends = "b.toml"\nname = "a"\n')
    with pytest.raises(ProclipError, match=r"no recipe at .*b\.toml"):
        load_recipe(path)
    (tmp_path / "b.toml").write_text('extends = ["a.toml"]\nname = "b"\n')
    with pytest.raises(ProclipError, match=r"a\.toml extends itself, by way of .*a\.toml and .*b\.toml"):
        load_recipe(path)
    path.write_text('extends = 3\nname = "a"\n')
    with pytest.raises(ProclipError, match="extends must be the path of a recipe beside it"):
        load_recipe(path)


def test_a_recipe_extends_one_that_ships(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for name in ("paper/proclip_vit-l-14_30m", "paper/proclip_vit-l-14_30m.toml"):
        path.write_text(f'extends = "{name}"\nname = "mine"\n[tune]\nbatch_size = 128\n')
        recipe = load_recipe(path)
        assert (recipe.name, recipe.data.store) == ("mine", "data/cc30m-embeddings")
        assert recipe.tune is not None and recipe.tune.batch_size == 128
    path.write_text('extends = "paper/none"\n')
    with pytest.raises(ProclipError, match=r"no recipe at .*paper/none"):
        load_recipe(path)


def test_none_leaves_out_what_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text('name = "x"\n[distill]\n[tune.optim]\ngrad_clip = 1.0\n')
    (tmp_path / "recipe.toml").write_text('extends = "base.toml"\ndistill = "none"\n')
    recipe = load_recipe(tmp_path / "recipe.toml", ["tune.optim.grad_clip=none", "init=none"])
    assert recipe.distill is None and recipe.tune is not None and recipe.tune.optim.grad_clip is None
    assert recipe.init == "none"  # a text may say anything
    with pytest.raises(ProclipError, match="adapter must be a table, not 'none'"):
        load_recipe(tmp_path / "recipe.toml", ["adapter=none"])


def test_how_processes_share_a_stage_changes_no_hash_and_has_limits() -> None:
    for own in ({"lr": 1e-4}, {}):
        base, shared = ({"name": "a", "tune": {"optim": {**own, **more}}} for more in ({}, {"parallel": "fsdp"}))
        assert config_hash(from_dict(Recipe, shared)) == config_hash(from_dict(Recipe, base))
    for changes, name in (
        ({"optim": {"parallel": "fsdp", "autocast": "float16"}}, "optim.autocast"),
        ({"optim": {"parallel": "fsdp"}, "image": {"mode": "lora"}}, "tune.optim.parallel"),
        ({"optim": {"parallel": "fsdp"}, "image": {"compile": True}}, "tune.optim.parallel"),
    ):
        with pytest.raises(ProclipError, match=name):
            from_dict(Recipe, {"name": "a", "tune": changes})
