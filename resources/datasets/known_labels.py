"""Label tables of well-known street sets, and which names of classes mean the same.

Belongs here: ids, colours and names as they were published, synonyms, broader classes. Does not: what a folder's masks
hold (`recognise.py`), class files of the user's own (`class_files.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from resources.config import CITYSCAPES19, IGNORED_NAMES
from resources.datasets.camvid import COLOURS as CAMVID_COLOURS
from resources.datasets.camvid import SEGNET_IDS
from resources.datasets.cityscapes import LABEL_IDS
from resources.datasets.label_map import Table

CITYSCAPES_COLOURS: Table = {
    "#804080": "road", "#F423E8": "sidewalk", "#464646": "building", "#66669C": "wall", "#BE9999": "fence",
    "#999999": "pole", "#FAAA1E": "traffic light", "#DCDC00": "traffic sign", "#6B8E23": "vegetation",
    "#98FB98": "terrain", "#4682B4": "sky", "#DC143C": "person", "#FF0000": "rider", "#00008E": "car",
    "#000046": "truck", "#003C64": "bus", "#005064": "train", "#0000E6": "motorcycle", "#770B20": "bicycle",
    "#000000": "void", "#6F4A00": "dynamic", "#510051": "ground", "#FAAAA0": "parking", "#E6968C": "rail track",
    "#B4A5B4": "guard rail", "#966464": "bridge", "#96785A": "tunnel", "#00005A": "caravan", "#00006E": "trailer",
}  # fmt: skip

_MAPILLARY_NAMES = (
    "bird", "ground animal", "curb", "fence", "guard rail", "barrier", "wall", "bike lane", "crosswalk", "curb cut",
    "parking", "pedestrian area", "rail track", "road", "service lane", "sidewalk", "bridge", "building", "tunnel",
    "person", "bicyclist", "motorcyclist", "other rider", "lane marking crosswalk", "lane marking", "mountain", "sand",
    "sky", "snow", "terrain", "vegetation", "water", "banner", "bench", "bike rack", "billboard", "catch basin",
    "cctv camera", "fire hydrant", "junction box", "mailbox", "manhole", "phone booth", "pothole", "street light",
    "pole", "traffic sign frame", "utility pole", "traffic light", "traffic sign back", "traffic sign", "trash can",
    "bicycle", "boat", "bus", "car", "caravan", "motorcycle", "on rails", "other vehicle", "trailer", "truck",
    "wheeled slow", "car mount", "ego vehicle", "unlabeled",
)  # fmt: skip

_ADE_NAMES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet", "sidewalk",
    "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water", "painting", "sofa",
    "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp",
    "bathtub", "railing", "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter", "sand",
    "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs", "runway", "case", "pool table",
    "pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind", "coffee table", "toilet", "flower",
    "book", "hill", "bench", "countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar",
    "arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight",
    "booth", "television", "airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator", "ottoman",
    "bottle", "buffet", "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer", "plaything",
    "swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven", "ball",
    "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher", "screen",
    "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan", "pier", "crt screen",
    "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag",
)  # fmt: skip

_SYNTHIA_NAMES = (
    "void", "sky", "building", "road", "sidewalk", "fence", "vegetation", "pole", "car", "traffic sign", "person",
    "bicycle", "motorcycle", "parking slot", "road work", "traffic light", "terrain", "rider", "truck", "bus", "train",
    "wall", "lane marking",
)  # fmt: skip

KNOWN_TABLES: dict[str, Table] = {
    "the train ids of Cityscapes (KITTI, BDD100K and others use them too)": {
        **dict(enumerate(CITYSCAPES19)), 255: "void",
    },
    "the label ids of Cityscapes (KITTI, GTA5 and others use them too)": {
        **{own: name for own, name in LABEL_IDS.items() if own != -1}, 255: "void",
    },
    "the 11 ids of CamVid": {**SEGNET_IDS, 255: "void"},
    "the ids of Mapillary Vistas 1.2": dict(enumerate(_MAPILLARY_NAMES)),
    "the ids of SYNTHIA": dict(enumerate(_SYNTHIA_NAMES)),
    "the 150 ids of ADE20K": {0: "void", **dict(enumerate(_ADE_NAMES, start=1))},
    "the colours of Cityscapes": CITYSCAPES_COLOURS,
    "the colours of CamVid": CAMVID_COLOURS,
}  # fmt: skip
"""Published tables by what they are called in a config's comments."""

_SYNONYMS = {
    "road": "street route roadway carriageway asphalt driveable drivable paved_road road_surface highway lane",
    "sidewalk": "pavement footpath footway sidewalk_pavement walkway pedestrian_area",
    "building": "edifice house skyscraper houses buildings construction structure",
    "wall": "walls retaining_wall",
    "fence": "fencing fences barrier railing",
    "pole": "column_pole column poles post utility_pole pillar lamp_post",
    "traffic light": "trafficlight traffic_lights signal traffic_signal",
    "traffic sign": "trafficsign traffic_signs road_sign signsymbol sign_symbol signboard traffic_sign_front",
    "sign": "signs sign_or_light",
    "vegetation": "tree trees plant bush bushes flora vegetationmisc foliage hedge palm greenery",
    "terrain": "grass lawn earth field land soil",
    "sky": "skies heaven",
    "person": "pedestrian people human persons pedestrians walker individual child man woman",
    "rider": "bicyclist motorcyclist other_rider riders biker",
    "cyclist": "cyclists two_wheeler bike_and_rider",
    "car": "auto automobile motorcar cars passenger_car sedan suv suvpickuptruck van",
    "vehicle": "vehicles other_vehicle othermoving motor_vehicle",
    "truck": "lorry trucks heavy_truck",
    "bus": "coach autobus buses truck_bus",
    "train": "tram on_rails trams trains rail_vehicle",
    "motorcycle": "motorbike minibike moped motorcycles motorcyclescooter scooter",
    "bicycle": "bike cycle bikes bicycles pushbike",
    "lane marking": "lanemarking lane_markings lanemkgsdriv lanemkgsnondriv road_marking road_markings marking lines "
    "lane_marking_crosswalk crosswalk zebra lane_marking_general service_lane bike_lane pothole manhole",
    "curb": "kerb curb_cut roadshoulder",
}
_CONCEPT = {
    re.sub(r"[ _]", "", own): concept for concept, names in _SYNONYMS.items() for own in (concept, *names.split())
}

_BROADER: dict[str, tuple[str, ...]] = {
    "lane marking": ("road",), "curb": ("sidewalk",), "wall": ("fence", "building"), "fence": ("wall",),
    "traffic light": ("sign", "traffic sign"), "traffic sign": ("sign",), "sign": ("traffic sign",),
    "terrain": ("vegetation",), "rider": ("cyclist", "person"), "cyclist": ("rider", "bicycle", "person"),
    "car": ("vehicle",), "vehicle": ("car",), "truck": ("vehicle", "car"), "bus": ("vehicle", "truck"),
    "train": ("vehicle", "bus"), "motorcycle": ("cyclist", "vehicle"), "bicycle": ("cyclist", "rider"),
}  # fmt: skip
"""Where a class list lacks a class, what it is counted as in it, the nearest first."""

_NOTHING = {*IGNORED_NAMES, "unknown", "other", "others", "background", "none", "ignored", "dontcare", "static",
            "dynamic", "invalid", "misc", "egovehicle", "outofroi", "rectificationborder"}  # fmt: skip


def concept(name: str) -> str:
    """What a class is: one word for all its synonyms; a name that none knows is its own concept."""
    plain = _plain(name)
    if plain in _CONCEPT:
        return _CONCEPT[plain]
    parts = [_plain(part) for part in re.split(r"[,;/]| - ", name)]  # 'road, route'; 'Lane Marking - General'
    known = [_CONCEPT[part] for part in parts if part in _CONCEPT]
    return known[0] if known else plain


def usual_names(names: Sequence[str]) -> list[str]:
    """Class names as the traits know them ('road' for 'Street'), where one is known and no two become the same."""
    usual = [concept(name) if concept(name) in _SYNONYMS else name for name in names]
    return [new if usual.count(new) == 1 else own for own, new in zip(names, usual, strict=True)]


def is_void(name: str) -> bool:
    """Whether a class of this name is none that could be scored."""
    return _plain(name) in _NOTHING


def nearest_class(name: str, class_names: Sequence[str]) -> str | None:
    """The class of a list that a class of another name belongs to: the same, a synonym, or what includes it."""
    by_name = {_plain(own): own for own in class_names}
    if _plain(name) in by_name:
        return by_name[_plain(name)]
    if is_void(name):
        return None
    by_concept: dict[str, str] = {}
    for own in class_names:
        by_concept.setdefault(concept(own), own)
    meant = concept(name)
    found = (by_concept[other] for other in (meant, *_BROADER.get(meant, ())) if other in by_concept)
    return next(found, None)


def _plain(name: str) -> str:
    """Letters and digits alone: 'Traffic_Sign', 'trafficsign' and 'TrafficSign' are one name."""
    return re.sub(r"[^a-z0-9]+", "", name.lower())
