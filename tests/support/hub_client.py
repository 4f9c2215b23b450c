"""The Hub's clients turned to a stand-in, although they read where the Hub is when they are imported."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hub_server import Hub


def turn_to(hub: Hub, home: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """This process talks to `hub` with its token, keeps its cache in `home` and never sleeps: the pauses it would have made."""
    import datasets
    import huggingface_hub
    from huggingface_hub import constants

    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    known = {
        "ENDPOINT": hub.address, "HUGGINGFACE_CO_URL_TEMPLATE": hub.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(home / "hub"), "HF_HOME": str(home),
        "HF_TOKEN_PATH": str(home / "token"), "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
    }  # fmt: skip
    for name, value in known.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.address)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    monkeypatch.setattr(datasets.config, "TORCH_AVAILABLE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    huggingface_hub.HfFileSystem.clear_instance_cache()
    huggingface_hub.utils.close_session()
    connect = socket.socket.connect

    def near(self: socket.socket, address: tuple[str, int]) -> None:
        assert address[0] in ("127.0.0.1", "::1"), f"a test reaches for {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", near)
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    return pauses


def environment(hub: Hub, home: Path) -> dict[str, str]:
    """The same for a process of its own."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return own | {
        "HF_ENDPOINT": hub.address, "HF_TOKEN": hub.token, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "USE_TORCH": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "*",
    }  # fmt: skip
