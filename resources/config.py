"""`gap.yaml`: its schema, its loading, and one-line errors that name the key.

Belongs here: what a user can set, and checks that need no picture and no weights.
Does not: reading data sets or models (they check themselves when they are opened).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from resources.errors import ConfigError
from resources.plain_yaml import PlainYamlError, read_yaml
from resources.storage_options import REFERENCE, S3, SECRET

CITYSCAPES19 = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
CAMVID11 = (
    "sky", "building", "pole", "road", "sidewalk", "vegetation", "sign", "fence", "vehicle", "person", "cyclist",
)  # fmt: skip
IGNORED_NAMES = ("void", "unlabeled", "unlabelled", "ignore")
"""Names that a label table may use for pixels that no statistic counts; never a class of the model."""
NAMED_CLASSES = {"cityscapes19": CITYSCAPES19, "camvid11": CAMVID11}

EXPORTED = {".onnx": "an ONNX file", ".pt2": "a torch.export archive", ".torchscript": "a TorchScript archive"}
"""Suffixes of checkpoints that hold the whole network."""

COLOUR = re.compile(r"#[0-9A-Fa-f]{6}")
MAX_LABEL_ID = 65535
MAX_CLASSES = 254

URL = re.compile(r"[a-z][a-z0-9+.-]*://[\w.@=-]+(/[\w.=-]+)*/?", re.ASCII)
"""A store's: without a password, and without what deltalake can't take."""

_LONGEST_SHOWN = 100

USER_CODE = "GAP_USER_CODE"
"""Environment variable that says whether a config may name code; the command line, Dagster's UI and daemon read it."""

DEMO_CONFIG = Path(__file__).with_name("demo.yaml")

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=64)]
"""A data set's name: it becomes an asset key, a group and a folder."""


OptionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
"""An option of an object store."""

Installed = Annotated[str, StringConstraints(pattern=r"^[\w.-]+$")]
"""The name of a network that is installed; with ':' or '/' it would be one to download."""

Side = Annotated[int, Field(ge=32, le=16384)]
"""Height or width of the model's input in pixels."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, numbers are finite, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TrainingConfig(Section):
    """How `source/model` is trained when no checkpoint is given."""

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=8, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0)
    seed: int = 0


class ModelConfig(Section):
    """The model under test."""

    architecture: Installed = "DeepLabV3Plus"
    encoder: Installed = "tu-tf_efficientnet_lite0"
    checkpoint: Path | None = None
    factory: str | None = Field(default=None, pattern=r"^[\w.]+:\w+$")
    embedding_layer: str | None = None
    input_size: tuple[Side, Side] = (512, 1024)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    training: TrainingConfig = TrainingConfig()

    @field_validator("std")
    @classmethod
    def _positive(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError("expected three positive numbers")
        return std

    @model_validator(mode="after")
    def _factory_has_layer(self) -> ModelConfig:
        if self.factory and not self.embedding_layer:
            raise ValueError("'factory' needs 'embedding_layer': the name of the module whose output is the latent")
        return self

    @model_validator(mode="after")
    def _one_network(self) -> ModelConfig:
        if self.factory and self.exported:
            raise ValueError(f"the checkpoint is {self.exported}, a whole network: leave out 'factory'")
        return self

    @property
    def exported(self) -> str | None:
        """What the checkpoint is when it holds the whole network, else None."""
        return EXPORTED.get(self.checkpoint.suffix) if self.checkpoint is not None else None

    @property
    def title(self) -> tuple[str, str]:
        """The network in words: what it is, and its encoder or where the latent is read."""
        if self.checkpoint is not None and self.exported:
            return self.checkpoint.name, f"latent: {self.embedding_layer or 'the deepest feature map'}"
        if self.factory is not None:
            return self.factory, f"latent: {self.embedding_layer}"
        return self.architecture, self.encoder


class Selection(Section):
    """Which samples of a data set: all conditions hold at once."""

    splits: list[str] | None = None
    groups: list[str] | None = None
    names: list[str] | str | None = None
    limit: int | None = Field(default=None, ge=1)


class DatasetConfig(Section):
    """One data set: where it is, who reads it, what its labels mean."""

    name: Name
    reader: Literal["cityscapes", "kitti", "camvid", "folder", "pairs", "streets"]
    root: Path | None = None
    images: str | None = None
    masks: str | None = None
    split: str | None = None
    group: str | None = None
    group_blocks: int | None = Field(default=None, ge=1)
    select: Selection | None = None
    limit: int | None = Field(default=None, ge=1)
    labels: dict[int | str, str] | None = None
    metadata: Path | None = None
    use_labels: bool = True
    """False: the set's masks are left aside, as if it had none."""
    scene: str | None = None
    count: int | None = Field(default=None, ge=1)
    seed: int | None = None

    @field_validator("split", "group")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        try:
            fits = pattern is None or re.compile(pattern).groups == 1
        except re.error as error:  # not a ValueError before Python 3.13, so pydantic would let it through
            raise ValueError(f"expected a regular expression with one capture group: {error}") from None
        if not fits:
            raise ValueError("expected a regular expression with one capture group")
        return pattern

    @field_validator("labels", mode="before")
    @classmethod
    def _no_words(cls, labels: Any) -> Any:
        if isinstance(labels, dict) and any(isinstance(own, bool) for own in labels):
            raise ValueError("expected ids or quoted colours '#RRGGBB'; YAML reads yes, no, on and off as truth values")
        return labels

    @field_validator("labels")
    @classmethod
    def _ids_or_colours(cls, labels: dict[int | str, str] | None) -> dict[int | str, str] | None:
        if labels is None:
            return None
        if not labels:
            raise ValueError("expected ids or colours '#RRGGBB' with class names, got none")
        for own in labels:
            fits = -1 <= own <= MAX_LABEL_ID if isinstance(own, int) else COLOUR.fullmatch(own)
            if not fits:
                raise ValueError(f"expected ids up to {MAX_LABEL_ID} or quoted colours '#RRGGBB', got {own!r}")
        if len({type(own) for own in labels}) > 1:
            raise ValueError("expected ids or colours, not both in one set")
        _check_distinct(labels)
        return labels

    @model_validator(mode="after")
    def _fits_reader(self) -> DatasetConfig:
        built_in = self.reader == "streets"
        if built_in == (self.root is not None):
            raise ValueError("'root' names the data set's folder (and reader 'streets', which is built in, has none)")
        if not built_in and any(value is not None for value in (self.scene, self.count, self.seed)):
            raise ValueError("'scene', 'count' and 'seed' belong to reader 'streets' alone")
        if self.group is not None and self.group_blocks is not None:
            raise ValueError("give 'group' or 'group_blocks', not both")
        self._check_patterns()
        return self

    def _check_patterns(self) -> None:
        if self.reader != "pairs":
            if self.images is not None or self.masks is not None:
                raise ValueError("'images' and 'masks' belong to reader 'pairs' alone")
            return
        stars = [pattern.count("*") for pattern in (self.images, self.masks) if pattern is not None]
        if self.images is None or min(stars) < 1 or len(set(stars)) > 1:
            raise ValueError(
                "reader 'pairs' needs 'images' (and 'masks', where there are labels): paths below the root with '*' "
                "for the sample's name, as often in both, such as 'rgb/*_rgb.png' and 'labels/*_label.png'"
            )

    def described(self) -> dict[str, Any]:
        """All that decides how the folder is read, but for where it lies; keys of another reader are left out."""
        others = set() if self.reader == "pairs" else {"images", "masks"}
        return self.model_dump(mode="json", exclude={"root", "metadata"} | others)


def _check_distinct(labels: dict[int | str, str]) -> None:
    found: dict[int | str, int | str] = {}
    for own, name in labels.items():
        stored = own.upper() if isinstance(own, str) else 255 if own == -1 else own  # as an 8-bit file holds it
        first = found.setdefault(stored, own)
        if labels[first] != name:
            raise ValueError(f"{first!r} and {own!r} are the same in a mask, but have two names")


class SourceConfig(DatasetConfig):
    """The source: `reference` is what the model was fitted on, `holdout` what it has not seen.

    With one of the two (or neither), the set is divided by group, `holdout_share` of it held out.
    """

    reference: Selection | None = None
    holdout: Selection | None = None
    holdout_share: float = Field(default=0.3, gt=0, lt=1)

    @field_validator("use_labels")
    @classmethod
    def _labels_used(cls, use_labels: bool) -> bool:
        if not use_labels:
            raise ValueError("expected true for the source: its holdout's labels are what everything is measured by")
        return use_labels


Dataset = TypeVar("Dataset", bound=DatasetConfig)


class ModuleList(Section):
    """Python modules of the user's own that register traits or hypotheses when they are imported."""

    modules: list[str] = []


class ExperimentsConfig(ModuleList):
    """Which hypotheses are tried, and what is worth acting on."""

    only: list[str] | None = None
    smallest_effect: float = Field(default=0.05, gt=0, lt=1)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)


ADAPTATIONS = (
    "batch_norm", "tent", "class_prior", "coral", "fda", "self_training", "adversarial", "advent", "fine_tuning",
    "oracle",
)  # fmt: skip
"""Methods that adapt the model to a target, the cheapest first."""
Minutes = Annotated[float, Field(gt=0)]
DEFAULT_MINUTES = 5.0


class AdaptationConfig(Section):
    """Which adaptations of the model are tried, and what each may cost.

    `minutes`: the most that the training of one method on one target takes, all its variants and seeds together.
    """

    methods: list[str] = []
    minutes: Minutes | dict[str, Minutes] = DEFAULT_MINUTES
    seeds: int = Field(default=3, ge=1)
    steps: int = Field(default=300, ge=1)
    batch_size: int = Field(default=4, ge=2)
    learning_rate: float = Field(default=1e-4, gt=0)

    @model_validator(mode="after")
    def _known(self) -> AdaptationConfig:
        named = [*self.methods, *(self.minutes if isinstance(self.minutes, dict) else ())]
        for name in named:
            if name not in ADAPTATIONS:
                near = difflib.get_close_matches(name, ADAPTATIONS, 1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ValueError(f"no method {name!r}; {hint}valid methods: {', '.join(ADAPTATIONS)}")
        if len(set(self.methods)) != len(self.methods):
            raise ValueError(f"methods are named once, got {', '.join(self.methods)}")
        return self

    def seconds(self, method: str) -> float:
        """The budget of a method on one target."""
        minutes = self.minutes.get(method, DEFAULT_MINUTES) if isinstance(self.minutes, dict) else self.minutes
        return 60 * minutes


class ModelPartsConfig(Section):
    """Whether the parts of the model are looked at, on how many pictures a side, and what training each may cost.

    `fine_tuning_minutes`: for all parts of one target together; 0 trains none.
    """

    enabled: bool = True
    pictures: int = Field(default=64, ge=16)
    fine_tuning_minutes: float = Field(default=0, ge=0)


class StatisticsConfig(Section):
    """How finely nulls and intervals are drawn; all draws are seeded."""

    permutations: int = Field(default=500, ge=99)
    bootstrap: int = Field(default=1000, ge=100)
    noise_floor_draws: int = Field(default=50, ge=10)
    neighbours: int = Field(default=5, ge=1)
    seed: int = 0


class IndexConfig(Section):
    """How nearest reference latents are searched: exactly up to a size, in inverted lists above it, then by codes.

    `recall`: share of the true neighbours that an approximate index must find. Lists beyond `memory_gb` stay on disk.
    """

    exact_up_to: int = Field(default=100_000, ge=1_000)
    compress_above: int = Field(default=5_000_000, ge=20_000)
    recall: float = Field(default=0.95, gt=0, le=1)
    memory_gb: float = Field(default=8, gt=0)


class QualityConfig(Section):
    """When data quality stops a run."""

    max_quarantined: float = Field(default=0.05, ge=0, le=1)


class ComputeConfig(Section):
    """Where and how passes over pictures run; the keys from `address` on belong to the engine 'ray'.

    `precision`: 'auto' is bfloat16 (autocast) on CUDA, else float32; one that is named makes figures of its own.
    """

    engine: Literal["local", "ray"] = "local"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    batch_size: int = Field(default=8, ge=1)
    workers: int = Field(default=2, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: bool = False
    address: str | None = Field(default=None, min_length=1)
    actors: int | None = Field(default=None, ge=1)
    actor_cpus: int | None = Field(default=None, ge=1)
    actor_gpus: float | None = Field(default=None, ge=0)

    @field_validator("address")
    @classmethod
    def _of_a_node(cls, address: str | None) -> str | None:
        if address is not None and "://" in address:
            raise ValueError(
                "expected the head's host:port, or auto; Ray Data gives no results to a client outside the cluster, "
                "so run on a node of it"
            )
        return address

    @model_validator(mode="after")
    def _of_the_engine(self) -> ComputeConfig:
        given = [name for name in ("address", "actors", "actor_cpus", "actor_gpus") if getattr(self, name) is not None]
        if given and self.engine != "ray":
            raise ValueError(f"{given[0]!r} says something to the engine 'ray'; set engine: ray, or take the key out")
        return self

    def half(self, device: str) -> bool:
        """Whether forwards on a device run in bfloat16."""
        return self.precision == "bfloat16" or (self.precision == "auto" and device == "cuda")


class ScheduleConfig(Section):
    """The nightly check."""

    cron: str = "0 2 * * *"
    timezone: str = "UTC"
    enabled: bool = False


class ChecksConfig(Section):
    """Tests of the user's own that run every night: slices frozen by `domain-gap export slice-tests`."""

    slice_tests: Path | None = None


class TrackingConfig(Section):
    """Where the figures of each report are logged besides: an MLflow server's address."""

    mlflow: str | None = None
    experiment: str = Field(default="domain-gap", min_length=1)

    @field_validator("mlflow")
    @classmethod
    def _an_address(cls, uri: str | None) -> str | None:
        parts = urlsplit(uri or "http://host")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected the address of an MLflow server, http://host:port or https://host")
        return uri


Hours = Annotated[float, Field(gt=0)]
DEFAULT_COOLDOWN = 72.0


class ChangeAlert(Section):
    """A figure that differs from the last nights', by more than a number and beyond its noise."""

    nights: int = Field(default=7, ge=1)
    loss_gap: float | None = Field(default=None, ge=0)
    knn_auroc: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _watched(self) -> ChangeAlert:
        if self.loss_gap is None and self.knn_auroc is None:
            raise ValueError("expected 'loss_gap' or 'knn_auroc': the least difference worth telling")
        return self


class AlertsConfig(Section):
    """When somebody is told, and where (apprise URLs).

    `cooldown_hours`: how long an alert that was sent stays silent, for all rules or by rule. `link`: the address under
    which the store's `reports` folder is served.
    """

    gap_closed_drop: float | None = Field(default=None, gt=0)
    knn_auroc: float | None = Field(default=None, ge=0.5, le=1)
    loss_gap: float | None = None
    change: ChangeAlert | None = None
    new_cause: bool = False
    quality: bool = False
    no_check_hours: Hours | None = None
    cooldown_hours: Hours | dict[str, Hours] = DEFAULT_COOLDOWN
    link: str | None = None
    notify: list[SecretStr] = []

    @field_validator("cooldown_hours")
    @classmethod
    def _rules(cls, hours: float | dict[str, float]) -> float | dict[str, float]:
        for name in hours if isinstance(hours, dict) else ():
            if name not in ALERT_RULES:
                near = difflib.get_close_matches(name, ALERT_RULES, 1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ValueError(f"no rule {name!r}; {hint}rules: {', '.join(ALERT_RULES)}")
        return hours

    @field_validator("link")
    @classmethod
    def _served(cls, link: str | None) -> str | None:
        parts = urlsplit(link or "http://none")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError("expected an address http(s)://… without a password: it is part of every message")
        return link

    @property
    def addresses(self) -> tuple[str, ...]:
        """The apprise URLs, with their secrets: for sending alone."""
        return tuple(url.get_secret_value() for url in self.notify)

    def cooldown(self, rule: str) -> float:
        """Hours for which a rule is silent after it was told."""
        hours = self.cooldown_hours
        return hours.get(rule, DEFAULT_COOLDOWN) if isinstance(hours, dict) else hours


ALERT_RULES = ("gap_closed_drop", "knn_auroc", "loss_gap", "change", "new_cause", "quality", "no_check_hours")


class GapConfig(Section):
    """The whole of `gap.yaml`, paths resolved.

    `storage_options`: what deltalake takes for a store by URL, secrets as `${NAME}` from the environment. `home`: the
    folder of Dagster's home and of what else must be local; left out, the store, for a URL a folder of the user's own.
    """

    store: str = Field(default="./gap-data", min_length=1)
    classes: Literal["cityscapes19", "camvid11"] | list[str]
    model: ModelConfig = ModelConfig()
    source: SourceConfig
    targets: list[DatasetConfig] = Field(min_length=1)
    traits: ModuleList = ModuleList()
    experiments: ExperimentsConfig = ExperimentsConfig()
    adaptation: AdaptationConfig = AdaptationConfig()
    model_parts: ModelPartsConfig = ModelPartsConfig()
    statistics: StatisticsConfig = StatisticsConfig()
    index: IndexConfig = IndexConfig()
    quality: QualityConfig = QualityConfig()
    compute: ComputeConfig = ComputeConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    alerts: AlertsConfig = AlertsConfig()
    checks: ChecksConfig = ChecksConfig()
    tracking: TrackingConfig = TrackingConfig()
    storage_options: dict[OptionName, str] = {}
    home: Path | None = None

    @field_validator("store")
    @classmethod
    def _plain_url(cls, store: str) -> str:
        scheme, separator, _ = store.partition("://")
        if separator and (not URL.fullmatch(store) or (scheme in S3 and "@" in store)):
            raise ValueError(
                "expected a bucket and a prefix of letters, digits and . _ - =; credentials belong in the environment"
            )
        return store

    @field_validator("storage_options", mode="before")
    @classmethod
    def _as_text(cls, options: Any) -> Any:
        if not isinstance(options, dict):
            return options
        return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}

    @field_validator("storage_options")
    @classmethod
    def _secrets_elsewhere(cls, options: dict[str, str]) -> dict[str, str]:
        for name, value in options.items():
            if SECRET.search(name) and not REFERENCE.fullmatch(value):
                raise ValueError(
                    f"{name}: expected ${{NAME}} of an environment variable; a config is no place for secrets"
                )
        return options

    @field_validator("classes", mode="before")
    @classmethod
    def _named_or_listed(cls, classes: Any) -> Any:
        listed = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        if listed or (isinstance(classes, str) and classes in NAMED_CLASSES):
            return classes
        raise ValueError(f"expected {', '.join(NAMED_CLASSES)} or a list of class names")

    @field_validator("classes")
    @classmethod
    def _distinct(cls, classes: str | list[str]) -> str | list[str]:
        if isinstance(classes, list) and (len(set(classes)) != len(classes) or not 1 < len(classes) <= MAX_CLASSES):
            raise ValueError(f"expected 2 to {MAX_CLASSES} distinct class names")
        return classes

    @model_validator(mode="after")
    def _names_fit(self) -> GapConfig:
        names = [self.source.name, *(target.name for target in self.targets)]
        if len(set(names)) != len(names):
            raise ValueError(f"data sets need distinct names, got {', '.join(names)}")
        if "source" in names[1:]:
            raise ValueError("a target can't be named 'source': the name is taken by the source's assets")
        for dataset in self.datasets:
            self._check_labels(dataset)
        return self

    def _check_labels(self, dataset: DatasetConfig) -> None:
        for own, name in (dataset.labels or {}).items():
            if name not in (*self.class_names, *IGNORED_NAMES):
                near = difflib.get_close_matches(name, self.class_names, 1)
                hint = f"; did you mean {near[0]!r}?" if near else f": {', '.join(self.class_names)}"
                raise ValueError(f"{dataset.name}.labels[{own!r}]: {name!r} is not one of the classes{hint}")

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of the model's output channels."""
        return NAMED_CLASSES[self.classes] if isinstance(self.classes, str) else tuple(self.classes)

    @property
    def datasets(self) -> list[DatasetConfig]:
        """The source, then the targets."""
        return [self.source, *self.targets]

    def dataset(self, key: str) -> DatasetConfig:
        """The data set behind an asset key's prefix: 'source', or a target's name."""
        return self.source if key == "source" else next(target for target in self.targets if target.name == key)


def load_config(path: Path, *, store: str | None = None) -> GapConfig:
    """Read and check a `gap.yaml`; paths in it become absolute, relative to the file (the store to the working folder).

    Raises ConfigError with one line that names file, key, value and what was expected, also for a config that names
    code where `user_code_allowed` says no. No address of `alerts.notify` is in it.
    """
    raw = _read_yaml(path)
    if store is not None:
        raw["store"] = store
    try:
        config = GapConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}: {' '.join(_describe(error).split())}") from None
    if not user_code_allowed():
        _check_no_code(config, path)
    return _resolved(config, path)


def user_code_allowed() -> bool:
    """Whether a config may name code: yes, unless $GAP_USER_CODE is set to anything but a plain yes."""
    return os.environ.get(USER_CODE, "1").strip().lower() in ("1", "true", "yes", "on")


def _check_no_code(config: GapConfig, path: Path) -> None:
    """All that a config can name and that runs: modules, a factory, a network that comes as a program."""
    names = {
        "model.factory": config.model.factory,
        "model.checkpoint": config.model.exported and f"{config.model.checkpoint}, {config.model.exported}",
        "traits.modules": ", ".join(config.traits.modules),
        "experiments.modules": ", ".join(config.experiments.modules),
    }
    for key, named in names.items():
        if named:
            raise ConfigError(
                f"{path}: {key}: names code ({named}), and user code is off; take it out, or allow it by leaving out "
                "--no-user-code and GAP_USER_CODE"
            )


def find_config(given: Path | None = None) -> Path:
    """The config to use: the one given, else $GAP_CONFIG, else ./gap.yaml, else the demo's."""
    if given is not None:
        return given
    if named := os.environ.get("GAP_CONFIG"):
        return Path(named)
    return local if (local := Path("gap.yaml")).exists() else DEMO_CONFIG


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = read_yaml(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config; 'domain-gap init' writes one") from None
    except PlainYamlError as error:
        raise ConfigError(f"{path}: not readable as YAML: {_without_addresses(str(error))}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, got {type(raw).__name__}; 'domain-gap init' writes one")
    return raw


def _without_addresses(text: str) -> str:
    """A text without what follows '://': alert addresses hold passwords and tokens."""
    return re.sub(r"\b([A-Za-z][\w+.-]*://)[^\s'\"]+", r"\1…", text)


def _describe(error: ValidationError) -> str:
    return _without_addresses(_described(error.errors()[0]))


def _described(first: ErrorDetails) -> str:
    # pydantic adds the branch of a union to the location ('names', 'list[str]'): no key of ours has a bracket
    key = ".".join(str(part) for part in first["loc"] if "[" not in str(part))
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}'{_nearest(first['loc'])}"
    if first["type"] == "missing":
        return f"missing key '{key}'"
    message = re.sub(r"valid dictionary( or instance of \w+)?", "mapping of keys", first["msg"]).removeprefix(
        "Value error, "
    )
    shown = first["input"]
    section = isinstance(shown, dict | BaseModel)  # a rule across keys: its message names their values
    hidden = section or first["loc"][:1] in (("alerts",), ("storage_options",), ("tracking",))  # may hold a password
    value = "" if hidden or len(repr(shown)) > _LONGEST_SHOWN else f" (got {shown!r})"
    return f"{key}: {message}{value}" if key else message


def _nearest(location: tuple[int | str, ...]) -> str:
    """The valid key nearest to an unknown one, found by walking the schema along its location."""
    section: Any = GapConfig
    for part in location[:-1]:
        if isinstance(part, str) and hasattr(section, "model_fields"):
            section = _section_in(section.model_fields[part].annotation)
    keys = list(getattr(section, "model_fields", {}))
    near = difflib.get_close_matches(str(location[-1]), keys, 1)
    return f"; did you mean '{near[0]}'?" if near else f"; valid keys: {', '.join(keys)}"


def _section_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (_section_in(argument) for argument in getattr(annotation, "__args__", ()))
    return next((section for section in inner if section is not None), None)


def _resolved(config: GapConfig, path: Path) -> GapConfig:
    base = path.resolve().parent
    checkpoint = config.model.checkpoint
    if checkpoint is not None:
        checkpoint = base / checkpoint
        if not _holds(checkpoint.is_file):
            raise ConfigError(
                f"{path}: model.checkpoint: no such file {checkpoint}; expected a .safetensors, .pt, "
                f"{', '.join(EXPORTED)} file"
            )
    model = config.model.model_copy(update={"checkpoint": checkpoint})
    source = _with_paths(config.source, "source", base, path)
    targets = [_with_paths(target, f"targets.{i}", base, path) for i, target in enumerate(config.targets)]
    try:
        store = config.store if "://" in config.store else str(Path(config.store).resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a circle of links, a null byte
        raise ConfigError(f"{path}: store: {config.store!r} can't be a folder: {error}") from None
    found = {"model": model, "source": source, "targets": targets, "store": store, "checks": _checks(config, path)}
    found["home"] = config.home and config.home.resolve()
    return config.model_copy(update=found)


def _checks(config: GapConfig, path: Path) -> ChecksConfig:
    tests = config.checks.slice_tests
    if tests is None:
        return config.checks
    tests = path.resolve().parent / tests
    if not tests.is_file():
        raise ConfigError(
            f"{path}: checks.slice_tests: no such file {tests}; leave the key out, run "
            f"'domain-gap export slice-tests --out {tests.name}', and put it back"
        )
    return config.checks.model_copy(update={"slice_tests": tests})


def _holds(question: Callable[[], bool]) -> bool:
    """A question to the file system about a path that may be too long or hold a null byte."""
    try:
        return question()
    except (OSError, ValueError):
        return False


def _with_paths(dataset: Dataset, key: str, base: Path, path: Path) -> Dataset:
    root = dataset.root and base / dataset.root
    metadata = dataset.metadata and base / dataset.metadata
    if root is not None and not _holds(root.is_dir):
        raise ConfigError(
            f"{path}: {key}.root: no such folder {root}; expected the folder of data set {dataset.name!r}"
        )
    if metadata is not None and not _holds(metadata.is_file):
        raise ConfigError(f"{path}: {key}.metadata: no such file {metadata}; expected .csv, .parquet or .json")
    return dataset.model_copy(update={"root": root, "metadata": metadata})
