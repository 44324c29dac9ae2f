"""Alerts that reach a real server on this machine, and refusals that keep addresses out of the log."""

from __future__ import annotations

import logging

import pytest
from message_receiver import receiver

from resources.notifications import Notifier


@pytest.fixture
def server():
    """A server on this machine; paths with 'refuse' answer 500."""
    with receiver() as found:
        yield found


def test_a_message_reaches_every_address(server, caplog):
    address, received, _ = server
    assert Notifier((f"{address}/one", f"{address}/two")).send("Gap", "kitti: gap closed fell from 0.4 to 0.2")
    assert [(entry["title"], entry["message"]) for entry in received] == [
        ("Gap", "kitti: gap closed fell from 0.4 to 0.2")
    ] * 2
    assert "not sent" not in caplog.text


def test_without_addresses_nothing_is_sent_and_nothing_is_wrong(caplog):
    assert Notifier().send("Gap", "text")
    assert not caplog.records


def test_a_service_that_refuses_is_a_warning_without_its_address(server, caplog):
    address, _, received = server
    with caplog.at_level(logging.DEBUG):
        assert not Notifier((f"{address}/refuse/TOPSECRET",)).send("Gap", "text")
    assert len(received) == 1
    assert "alert not sent: a service refused it" in caplog.text
    assert "TOPSECRET" not in caplog.text


@pytest.mark.parametrize("wrong", ["nosuch://person:hidden@host.example/path", "slack://T1HIDDEN/foo", "no address"])
def test_an_address_that_is_none_is_named_by_its_place_alone(server, caplog, wrong):
    address, received, _ = server
    with caplog.at_level(logging.DEBUG):
        assert not Notifier((address, wrong)).send("Gap", "text")
    assert "entries [2] of alerts.notify are no apprise URLs" in caplog.text
    for part in ("hidden", "HIDDEN", "host.example", "slack", "foo", "no address"):
        assert part not in caplog.text, part
    assert len(received) == 1  # the others are told all the same


def test_other_logging_of_the_library_comes_back_afterwards(server):
    before = logging.getLogger("apprise").disabled
    Notifier((server[0],)).send("Gap", "text")
    assert logging.getLogger("apprise").disabled == before
