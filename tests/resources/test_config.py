"""`gap.yaml`: what loads, and that every mistake is one line naming file, key, value and what was expected."""

from pathlib import Path

import pytest
import yaml

from resources.config import CAMVID11, CITYSCAPES19, DEMO_CONFIG, find_config, load_config
from resources.errors import ConfigError

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "gap-camvid.yaml"


@pytest.fixture
def valid(tmp_path):
    (tmp_path / "day").mkdir()
    (tmp_path / "dusk").mkdir()
    return {
        "classes": ["road", "sky", "person"],
        "source": {"name": "day", "reader": "folder", "root": "day"},
        "targets": [{"name": "dusk", "reader": "folder", "root": "dusk"}],
    }


@pytest.fixture
def load(tmp_path):
    def load(raw, **options):
        path = tmp_path / "gap.yaml"
        path.write_text(raw if isinstance(raw, str) else yaml.safe_dump(raw))
        return load_config(path, **options)

    return load


@pytest.fixture
def refusal(load, tmp_path):
    """The error's text, after the checks that hold for every error."""

    def refusal(raw) -> str:
        with pytest.raises(ConfigError) as caught:
            load(raw)
        text = str(caught.value)
        assert "\n" not in text
        assert text.startswith(f"{tmp_path / 'gap.yaml'}: ")
        return text.removeprefix(f"{tmp_path / 'gap.yaml'}: ")

    return refusal


def test_paths_are_relative_to_the_config_and_the_store_to_the_working_folder(load, valid, tmp_path, monkeypatch):
    (tmp_path / "weights.pt").touch()
    (tmp_path / "notes.csv").touch()
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    valid["model"] = {"checkpoint": "weights.pt"}
    valid["targets"][0]["metadata"] = "notes.csv"
    config = load(valid)
    assert config.source.root == tmp_path / "day"
    assert config.targets[0].metadata == tmp_path / "notes.csv"
    assert config.model.checkpoint == tmp_path / "weights.pt"
    assert config.store == str(elsewhere / "gap-data")


def test_absolute_paths_stay(load, valid, tmp_path):
    valid["source"]["root"] = str(tmp_path / "dusk")
    assert load(valid).source.root == tmp_path / "dusk"


@pytest.mark.parametrize("store", ["s3://bucket/gap", "memory://gap"])
def test_store_override_keeps_urls(load, valid, store):
    assert load({**valid, "store": "./other"}, store=store).store == store


def test_store_override_of_a_folder(load, valid, tmp_path):
    assert load(valid, store=str(tmp_path / "here")).store == str(tmp_path / "here")


def test_named_class_lists(load, valid):
    assert load({**valid, "classes": "cityscapes19"}).class_names == CITYSCAPES19
    assert load({**valid, "classes": "camvid11"}).class_names == CAMVID11


def test_selections_and_labels_load(load, valid):
    valid["source"] |= {"reference": {"splits": ["train"]}, "holdout": {"groups": ["b"], "limit": 4}}
    valid["targets"][0] |= {"select": {"names": "a_*"}, "labels": {0: "sky", 9: "void"}, "group": "_([a-z]+)_"}
    valid["targets"].append({**valid["targets"][0], "name": "dawn", "labels": {"#80FF00": "road"}, "limit": 3})
    config = load(valid)
    assert config.source.reference is not None
    assert config.source.reference.splits == ["train"]
    assert config.targets[0].labels == {0: "sky", 9: "void"}
    assert config.targets[1].labels == {"#80FF00": "road"}
    assert config.targets[1].select is not None
    assert config.targets[1].select.names == "a_*"
    assert [dataset.name for dataset in config.datasets] == ["day", "dusk", "dawn"]
    assert config.dataset("source").name == "day"
    assert config.dataset("dawn").limit == 3


def test_adaptation_is_off_and_budgets_are_per_method(load, valid):
    assert load(valid).adaptation.methods == []
    valid["adaptation"] = {"methods": ["tent", "oracle"], "minutes": {"oracle": 20}}
    settings = load(valid).adaptation
    assert settings.seeds >= 3
    assert [settings.seconds(name) for name in settings.methods] == [300, 1200]
    assert load({**valid, "adaptation": {"minutes": 2}}).adaptation.seconds("tent") == 120


def test_cool_downs_are_for_all_rules_or_each(load, valid):
    alerts = load({**valid, "alerts": {"cooldown_hours": {"loss_gap": 2}}}).alerts
    assert (alerts.cooldown("loss_gap"), alerts.cooldown("change")) == (2, 72)
    assert load({**valid, "alerts": {"cooldown_hours": 5}}).alerts.cooldown("quality") == 5


class TestRefusals:
    @pytest.mark.parametrize(
        ("alerts", "said"),
        [
            ({"cooldown_hours": {"los_gap": 2}}, "alerts.cooldown_hours: no rule 'los_gap'; did you mean 'loss_gap'?"),
            ({"change": {"nights": 3}}, "alerts.change: expected 'loss_gap' or 'knn_auroc'"),
            ({"link": "https://me:secret@host/"}, "alerts.link: expected an address http(s)://… without a password"),
            ({"no_check_hours": 0}, "alerts.no_check_hours: Input should be greater than 0"),
        ],
    )
    def test_alerts(self, refusal, valid, alerts, said):
        text = refusal({**valid, "alerts": alerts})
        assert text.startswith(said) and "secret" not in text

    def test_unknown_adaptations(self, refusal, valid):
        text = refusal({**valid, "adaptation": {"methods": ["finetuning"]}})
        assert text.startswith("adaptation: no method 'finetuning'; did you mean 'fine_tuning'? valid methods: batch_n")
        assert "no method 'all'; valid methods" in refusal({**valid, "adaptation": {"minutes": {"all": 3}}})
        assert "named once" in refusal({**valid, "adaptation": {"methods": ["tent", "tent"]}})
        assert refusal({**valid, "adaptation": {"minutes": 0}}).startswith("adaptation.minutes")

    def test_unknown_key(self, refusal, valid):
        assert refusal({**valid, "targts": []}) == "unknown key 'targts'; did you mean 'targets'?"

    def test_unknown_key_far_from_any(self, refusal, valid):
        assert refusal({**valid, "xyzzy": 1}).startswith("unknown key 'xyzzy'; valid keys: store, classes, model")

    def test_nested_unknown_key(self, refusal, valid):
        valid["targets"][0]["select"] = {"spilts": ["a"]}
        assert refusal(valid) == "unknown key 'targets.0.select.spilts'; did you mean 'splits'?"

    def test_nested_unknown_key_of_the_model(self, refusal, valid):
        assert refusal({**valid, "model": {"check_point": "a"}}) == (
            "unknown key 'model.check_point'; did you mean 'checkpoint'?"
        )

    def test_missing_key(self, refusal, valid):
        del valid["source"]["name"]
        assert refusal(valid) == "missing key 'source.name'"

    def test_no_targets(self, refusal, valid):
        assert refusal({**valid, "targets": []}).startswith("targets: List should have at least 1 item")

    def test_missing_folder(self, refusal, valid, tmp_path):
        valid["targets"][0]["root"] = "nowhere"
        assert refusal(valid) == (
            f"targets.0.root: no such folder {tmp_path / 'nowhere'}; expected the folder of data set 'dusk'"
        )

    def test_missing_checkpoint(self, refusal, valid, tmp_path):
        text = refusal({**valid, "model": {"checkpoint": "w.pt"}})
        suffixes = ".safetensors, .pt, .onnx, .pt2, .torchscript"
        assert text == f"model.checkpoint: no such file {tmp_path / 'w.pt'}; expected a {suffixes} file"

    def test_missing_metadata(self, refusal, valid, tmp_path):
        valid["source"]["metadata"] = "m.csv"
        assert refusal(valid).startswith(f"source.metadata: no such file {tmp_path / 'm.csv'}; expected .csv")

    def test_wrong_class_in_labels(self, refusal, valid):
        valid["targets"][0]["labels"] = {4: "rode"}
        assert refusal(valid) == "dusk.labels[4]: 'rode' is not one of the classes; did you mean 'road'?"

    def test_class_in_labels_far_from_any(self, refusal, valid):
        valid["source"]["labels"] = {"#000000": "zebra"}
        assert refusal(valid) == "day.labels['#000000']: 'zebra' is not one of the classes: road, sky, person"

    @pytest.mark.parametrize(
        ("key", "said"),
        [(-2, "-2"), (70000, "70000"), ("#fff", "'#fff'"), ("road", "'road'"), ("12", "'12'")],
    )
    def test_label_that_is_neither_id_nor_colour(self, refusal, valid, key, said):
        valid["targets"][0]["labels"] = {key: "road"}
        text = refusal(valid)
        assert text == f"targets.0.labels: expected ids up to 65535 or quoted colours '#RRGGBB', got {said}"

    def test_labels_of_both_kinds(self, refusal, valid):
        valid["targets"][0]["labels"] = {0: "road", "#000000": "sky"}
        assert refusal(valid) == "targets.0.labels: expected ids or colours, not both in one set"

    def test_empty_labels(self, refusal, valid):
        valid["targets"][0]["labels"] = {}
        assert refusal(valid).startswith("targets.0.labels: expected ids or colours")

    @pytest.mark.parametrize("key", ["split", "group"])
    @pytest.mark.parametrize("pattern", ["([a-z", "*x", "(?P<n", "[a-z]+", "(a)(b)"])
    def test_regular_expression(self, refusal, valid, key, pattern):
        valid["targets"][0][key] = pattern
        text = refusal(valid)
        assert text.startswith(f"targets.0.{key}: expected a regular expression with one capture group")
        assert text.endswith(f"(got {pattern!r})")

    def test_group_and_blocks(self, refusal, valid):
        valid["targets"][0] |= {"group": "(a)", "group_blocks": 4}
        assert refusal(valid) == "targets.0: give 'group' or 'group_blocks', not both"

    def test_duplicate_names(self, refusal, valid):
        valid["targets"].append({**valid["targets"][0]})
        assert refusal(valid) == "data sets need distinct names, got day, dusk, dusk"

    def test_target_named_source(self, refusal, valid):
        valid["targets"][0]["name"] = "source"
        assert "a target can't be named 'source'" in refusal(valid)

    @pytest.mark.parametrize("name", ["", "1st", "a/b", "a-b", "x" * 65])
    def test_name_that_is_no_asset_key(self, refusal, valid, name):
        valid["targets"][0]["name"] = name
        text = refusal(valid)
        assert text.startswith("targets.0.name: ")
        assert text.endswith(f"(got {name!r})")

    def test_unknown_class_list(self, refusal, valid):
        text = refusal({**valid, "classes": "cityscapes"})
        assert text == "classes: expected cityscapes19, camvid11 or a list of class names (got 'cityscapes')"

    @pytest.mark.parametrize("classes", [["road"], ["road", "road"], [f"c{i}" for i in range(255)]])
    def test_class_list_of_wrong_length_or_with_doubles(self, refusal, valid, classes):
        assert refusal({**valid, "classes": classes}).startswith("classes: expected 2 to 254 distinct class names")

    def test_wrong_type_in_a_union(self, refusal, valid):
        valid["targets"][0]["select"] = {"names": 5}
        text = refusal(valid)
        assert text.startswith("targets.0.select.names: ")
        assert text.endswith("(got 5)")

    def test_number_as_a_group(self, refusal, valid):
        valid["targets"][0]["select"] = {"groups": [6]}
        assert refusal(valid) == "targets.0.select.groups.0: Input should be a valid string (got 6)"

    def test_a_value_where_a_section_belongs(self, refusal, valid):
        assert refusal({**valid, "model": 5}) == "model: Input should be a mapping of keys (got 5)"

    def test_a_key_of_two_lines(self, refusal, valid):
        assert refusal({**valid, "a\nb": 5}).startswith("unknown key 'a b'; valid keys: ")

    def test_class_names_that_are_numbers(self, refusal, valid):
        text = refusal({**valid, "classes": [1, 2]})
        assert text == "classes: expected cityscapes19, camvid11 or a list of class names (got [1, 2])"

    def test_unknown_reader(self, refusal, valid):
        valid["targets"][0]["reader"] = "kity"
        text = refusal(valid)
        assert text.startswith("targets.0.reader: Input should be 'cityscapes', 'kitti'")
        assert text.endswith("(got 'kity')")

    def test_a_source_without_labels(self, refusal, valid):
        valid["source"]["use_labels"] = False
        assert "source.use_labels: expected true for the source" in refusal(valid)

    def test_limit_of_zero(self, refusal, valid):
        valid["targets"][0]["limit"] = 0
        assert refusal(valid) == "targets.0.limit: Input should be greater than or equal to 1 (got 0)"

    def test_streets_with_a_root(self, refusal, valid):
        valid["targets"][0]["reader"] = "streets"
        assert refusal(valid).startswith("targets.0: 'root' names the data set's folder")

    def test_scene_without_streets(self, refusal, valid):
        valid["targets"][0]["scene"] = "noon"
        assert refusal(valid) == "targets.0: 'scene', 'count' and 'seed' belong to reader 'streets' alone"

    def test_non_positive_deviation(self, refusal, valid):
        assert refusal({**valid, "model": {"std": [0.2, 0, 0.2]}}) == (
            "model.std: expected three positive numbers (got [0.2, 0, 0.2])"
        )

    @pytest.mark.parametrize("text", ["source: [a\nb: {", "a: b: c", "\t- x", "{[1]: 2}"])
    def test_malformed_yaml(self, refusal, text):
        assert refusal(text).startswith("not readable as YAML: ")

    @pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text"])
    def test_no_mapping(self, refusal, text):
        assert refusal(text).startswith("expected a mapping of keys, got ")

    def test_binary(self, tmp_path):
        (tmp_path / "gap.yaml").write_bytes(b"\xff\xfe\x00\x01")
        with pytest.raises(ConfigError, match="not readable as YAML"):
            load_config(tmp_path / "gap.yaml")

    def test_no_such_config(self, tmp_path):
        with pytest.raises(ConfigError, match=r"none\.yaml: no such config; 'domain-gap init' writes one"):
            load_config(tmp_path / "none.yaml")

    def test_a_folder_as_config(self, tmp_path):
        with pytest.raises(ConfigError, match="not readable as YAML"):
            load_config(tmp_path)


class TestFindConfig:
    @pytest.fixture(autouse=True)
    def in_tmp_path(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("GAP_CONFIG", raising=False)

    def test_the_given_one_wins(self, monkeypatch):
        monkeypatch.setenv("GAP_CONFIG", "env.yaml")
        assert find_config(Path("given.yaml")) == Path("given.yaml")

    def test_then_the_environment(self, tmp_path, monkeypatch):
        (tmp_path / "gap.yaml").touch()
        monkeypatch.setenv("GAP_CONFIG", "env.yaml")
        assert find_config() == Path("env.yaml")

    def test_then_the_working_folder(self, tmp_path):
        (tmp_path / "gap.yaml").touch()
        assert find_config() == Path("gap.yaml")

    def test_else_the_demo(self):
        assert find_config() == DEMO_CONFIG


@pytest.mark.skipif(not REAL.exists(), reason="the shared pictures are not here")
def test_the_real_config_loads():
    config = load_config(REAL, store="s3://bucket/gap")
    assert config.class_names[0] == "road"
    assert [dataset.name for dataset in config.datasets] == ["camvid_day", "camvid_dusk", "kitti"]
    assert config.model.input_size == (240, 320)
    assert config.model.checkpoint == REAL.parent / "weights" / "camvid-day.safetensors"


def test_keys_of_the_engine_ray_are_refused_without_it(tmp_path):
    path = tmp_path / "gap.yaml"
    path.write_text(
        "classes: [a, b]\nsource: {name: s, reader: streets}\ntargets: [{name: t, reader: streets}]\n"
        "compute: {address: auto}\n"
    )
    with pytest.raises(ConfigError, match=r"compute: 'address' says something to the engine 'ray'; set engine: ray"):
        load_config(path)
    path.write_text(path.read_text().replace("{address", "{engine: ray, address"))
    assert load_config(path).compute.address == "auto"
    path.write_text(path.read_text().replace("auto", '"ray://head:10001"'))
    with pytest.raises(ConfigError, match=r"compute\.address: expected the head's host:port.*run on a node.*ray://"):
        load_config(path)
