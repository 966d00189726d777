"""Uploading to the Hub, against one on loopback."""

import pytest
import toy_exchange as toy
from fake_hub import COMMIT, hub

from caml.config.errors import UserError
from caml.exchange.models import push, write_folder


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def folder(tmp_path):
    write_folder(toy.checkpoint(), tmp_path / "toy", "---\nlicense: cc0-1.0\n---\n# toy\n", {})
    return tmp_path / "toy"


def test_every_file_of_a_folder_arrives_as_it_is(folder):
    with hub() as server:
        told = push(folder, "me/toy", "hf_secret", server.address)
    assert told == f"{server.address}/me/toy/commit/{COMMIT}"
    assert server.files["me/toy"] == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert server.tokens == {"Bearer hf_secret"}


def test_what_the_hub_refuses_and_a_hub_that_is_not_there_are_one_line(folder):
    with hub() as server:
        server.status = 403
        with pytest.raises(UserError, match=r"the Hub refused me/toy .*HF_TOKEN"):
            push(folder, "me/toy", "hf_secret", server.address)
        with pytest.raises(UserError, match="could not be uploaded"):
            push(folder, "not a name", "hf_secret", server.address)
    with pytest.raises(UserError, match=r"could not be uploaded .*hf upload"):
        push(folder, "me/toy", "hf_secret", "http://127.0.0.1:9")
