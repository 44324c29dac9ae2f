"""Fixtures of the pipeline tests: one small world, run once a session."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from message_receiver import receiver as message_receiver


def _load_world():
    path = Path(__file__).with_name("world.py")
    spec = importlib.util.spec_from_file_location("gap_world", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gap_world"] = module
    spec.loader.exec_module(module)
    return module


gap_world = _load_world()
_watching: list[list[str]] = []


def _note_opened(event: str, arguments: tuple) -> None:
    if _watching and event == "open" and str(arguments[0]).endswith(".png"):
        _watching[-1].append(str(arguments[0]))


sys.addaudithook(_note_opened)  # it can't be taken off again, so it stays idle while nobody watches


@pytest.fixture
def opened_pictures():
    """Paths of the pictures and masks that Python opens in this process during a test, to hash or to decode them."""
    _watching.append([])
    yield _watching[-1]
    _watching.pop()


@pytest.fixture
def receiver():
    """An apprise address on this machine, and the messages that it was sent; 'refuse' in a path answers 500."""
    with message_receiver() as found:
        yield found.address, found.accepted


@pytest.fixture(scope="session")
def worlds():
    """The module of small worlds: folders, configs."""
    return gap_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory):
    """A small world whose first run is done; `first` is its outcome. Tests of one module share and change it."""
    made = gap_world.build_world(tmp_path_factory.mktemp("world") / "w")
    made.first = made.run()
    return made
