"""The secret of one machine's workers: one for all of them, and for nobody else."""

from __future__ import annotations

import pathlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from streamflow.app.worker.peer_secret import with_secret
from streamflow.web import WebSettings


def test_workers_of_one_folder_have_one_secret_whoever_comes_first(tmp_path: pathlib.Path) -> None:
    folder = str(tmp_path / "new" / "data")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: with_secret(WebSettings(), folder).worker_secret, range(40)))
    assert len(set(made)) == 1
    assert made[0] is not None
    assert len(made[0]) >= 32
    (place,) = pathlib.Path(folder).iterdir()
    assert place.stat().st_mode & 0o777 == 0o600
    assert with_secret(WebSettings(), str(tmp_path / "other")).worker_secret != made[0]


def test_what_is_set_goes_before(tmp_path: pathlib.Path) -> None:
    for settings in (WebSettings(tokens=("plain",)), WebSettings(peer_secret="set by somebody")):
        assert with_secret(settings, str(tmp_path)) is settings
    assert not list(tmp_path.iterdir())
    assert with_secret(WebSettings(tokens=("scrypt:x",)), str(tmp_path)).worker_secret


@pytest.mark.parametrize("text, mode", [("x" * 43, 0o644), ("", 0o600)])
def test_a_file_that_others_may_have_written_or_that_is_cut_off_is_none(
    tmp_path: pathlib.Path, text: str, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "peer-secret"
    place.write_text(text)
    place.chmod(mode)
    assert with_secret(WebSettings(), str(tmp_path)).worker_secret is None
    assert "web_peer_secret" in caplog.text
    assert "xxx" not in caplog.text


def test_a_folder_that_cannot_be_made_is_told(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert with_secret(WebSettings(), str(tmp_path / "file" / "data")).worker_secret is None
    assert "web_peer_secret" in caplog.text
