"""Small real things that many tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgelift.poses.motion import Clip
from edgelift.poses.sessions import Session
from edgelift.poses.skeletons import skeleton
from edgelift.poses.studio import StudioSettings, film, studio_rig

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


# code that makes what a device does not have impossible to import
FORBID_TRAINING = """
import sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "scipy", "onnx", "onnxscript", "safetensors", "matplotlib"}:
            raise ModuleNotFoundError(f"forbidden here: {name}", name=name)
sys.meta_path.insert(0, Forbidden())
"""


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the recordings that lie beside the project are not on this machine")
    return SHARED


def wobbling_person(frames: int, seed: int) -> np.ndarray:
    """A 17-joint figure of about human size whose joints sway smoothly: (frames, 17, 3) metres, Z up."""
    rng = np.random.default_rng(seed)
    rest = np.array(
        [[0, 0, 0.95], [-0.13, 0, 0.9], [-0.13, 0.05, 0.5], [-0.13, 0, 0.1], [0.13, 0, 0.9], [0.13, 0.05, 0.5],
         [0.13, 0, 0.1], [0, 0, 1.15], [0, 0, 1.4], [0, 0.05, 1.55], [0, 0, 1.7], [0.18, 0, 1.4], [0.25, 0, 1.1],
         [0.28, 0.1, 0.9], [-0.18, 0, 1.4], [-0.25, 0, 1.1], [-0.28, 0.1, 0.9]]
    )  # fmt: skip
    phase = rng.uniform(0, 2 * np.pi, (17, 3))
    time = np.arange(frames)[:, None, None] / 10
    return (rest + 0.08 * np.sin(time + phase)).astype(np.float32)


def make_sessions(
    count: int, frames: int = 60, views: int = 3, first: int = 0, **settings: float | str
) -> list[Session]:
    clips = [
        Clip(f"clip{i}", f"s{i % 3}", "sway", 20.0, wobbling_person(frames, i), skeleton("h36m17"))
        for i in range(first, count)
    ]
    return list(film(clips, studio_rig(views), StudioSettings(fps=20.0, **settings)))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def sessions() -> list[Session]:
    return make_sessions(6, noise_px=2.0, missing=0.05)


@pytest.fixture(scope="session")
def bundle(sessions: list[Session], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny lifter, trained for a moment and exported (needs torch, so it is imported here)."""
    from edgelift.trainer.deploy import export_run
    from edgelift.trainer.fit import train
    from edgelift.trainer.settings import TrainSettings

    home = tmp_path_factory.mktemp("bundle")
    train(sessions, home / "run", TrainSettings(width=32, epochs=2, batch=32))
    return export_run(home / "run", home / "bundle").path


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket of a server that speaks S3, in this process; the environment points there."""
    import os

    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "nobody")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        import fsspec

        fsspec.filesystem("s3").mkdir("edgelift-tests")
        yield "s3://edgelift-tests"
    server.stop()
