from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session, save_session
from edgelift.poses.skeletons import SKELETONS
from edgelift.runtime.evaluate import lift_views
from edgelift.runtime.start import LiftSettings, lift
from edgelift.trainer.checkpoint import load_checkpoint
from edgelift.trainer.demo import read_poses
from edgelift.trainer.deploy import export_run
from edgelift.trainer.fit import set_mode, train
from edgelift.trainer.models import build_model, normalise
from edgelift.trainer.parts import SHARED, PartLinear, linear
from edgelift.trainer.settings import TrainSettings
from edgelift.trainer.validation import module_lift

TINY = TrainSettings(width=32, epochs=2, batch=64)
KINDS = {
    "frame": TINY,
    "dense": replace(TINY, trunk="dense"),
    "tcn": replace(TINY, model="tcn", frames=9),
    "transformer": replace(TINY, model="transformer", frames=6),
    "dense transformer": replace(TINY, model="transformer", frames=6, trunk="dense"),
}


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest, sessions: list[Session], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kinds") / "run"
    train(sessions, path, KINDS[request.param])
    export_run(path, path.parent / "bundle")
    return path


def test_streaming_equals_offline(run: Path, sessions: list[Session], tmp_path: Path) -> None:
    session = sessions[0]
    irregular = replace(session, timestamps=session.timestamps + np.linspace(0, 0.013, 60) ** 2)
    irregular = replace(irregular, timestamps=irregular.timestamps + np.where(np.arange(60) > 30, 0.6, 0))  # a gap
    save_session(irregular, tmp_path / "s.npz")
    checkpoint = load_checkpoint(run)
    camera = session.camera_names[1]
    sink = str(tmp_path / "poses.jsonl")
    lift(
        LiftSettings(run.parent / "bundle", (str(tmp_path / "s.npz"),), (sink,), camera=(camera,), rate=None),
        lambda: False,
    )
    streamed = read_poses(tmp_path / "poses.jsonl", 60, 14)
    offline = lift_views(module_lift(checkpoint.model()), irregular, checkpoint.settings.input)[1].predicted
    assert np.isfinite(streamed).all()
    np.testing.assert_allclose(streamed, offline, atol=1e-4)


def test_parts_stay_apart_and_go_out_as_plain_layers(run: Path) -> None:
    checkpoint = load_checkpoint(run)
    layers = {name: layer for name, layer in checkpoint.model().named_modules() if isinstance(layer, PartLinear)}
    assert bool(layers) == (checkpoint.settings.trunk == "parts")
    for layer in layers.values():
        assert (layer.weight[layer.heard == 0] == 0).all()
        assert (layer.weight[layer.heard > 0] != 0).float().mean() > 0.9
    graph = onnx.load(run.parent / "bundle" / "lifter.onnx").graph
    names = {tensor.name for tensor in graph.initializer}
    linear = {f"{n}.weight" for n, m in checkpoint.model().named_modules() if isinstance(m, torch.nn.Linear)}
    assert linear <= names
    assert not any("heard" in name for name in names)
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)
    if checkpoint.settings.model == "transformer":
        assert sum(node.op_type == "LayerNormalization" for node in graph.node) == 5


@pytest.mark.parametrize("repeats", [1, 3])
def test_products_a_part_are_those_of_the_plain_layer(repeats: int) -> None:
    torch.manual_seed(0)
    units = torch.tensor([0] * 8 + [1] * 8 + [2] * 8 + [SHARED] * 3)
    layer = linear(units.repeat(repeats), units).double()
    assert isinstance(layer, PartLinear)
    assert layer.blocks is not None
    x = torch.randn(11, 27 * repeats, dtype=torch.double)
    found = []
    for of_blocks in (True, False):
        a = x.clone().requires_grad_()
        layer.zero_grad()
        y = layer(a) if of_blocks else torch.nn.functional.linear(a, layer.weight, layer.bias)
        y.sin().sum().backward()
        assert layer.weight.grad is not None
        found.append((y, a.grad, layer.weight.grad * layer.heard, layer.bias.grad))
        assert of_blocks == bool((layer.weight.grad[layer.heard == 0] == 0).all())
    torch.testing.assert_close(found[0], found[1])
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer.float()(x.float())
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.double(), found[0][0], atol=0.03, rtol=0.03)


def test_a_new_pose_of_one_part_leaves_what_the_others_say_of_themselves() -> None:
    """With the shared units silenced, a part's output depends on its own joints (and the centroid) alone."""
    torch.manual_seed(0)
    model = build_model(replace(TINY, blocks=1)).eval()
    assert isinstance(model.head, PartLinear)
    with torch.no_grad():
        model.head.weight[:, -2:] = 0  # the shared units' say in the output
    keypoints = torch.rand(1, 1, 14, 3) * 500
    keypoints[..., 2] = 1
    moved = keypoints.clone()
    moved[0, 0, [9, 10], 0] += torch.tensor([30.0, -30.0])  # left elbow and wrist; the centroid stays
    intrinsics = torch.tensor([[1000.0, 1000, 500, 500]])
    a, b = (model.head(model.encode(features(model, k, intrinsics), k[..., 2:])) for k in (keypoints, moved))
    change = (a - b).view(14, 3).abs().amax(1)
    assert change[[8, 9, 10]].min() > 0
    assert change[[4, 5, 6]].max() < 0.3 * change[[9, 10]].max()  # legs hear of it through shared units alone


def features(model: torch.nn.Module, keypoints: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    rays, seen, centroid = normalise(keypoints, intrinsics)
    return torch.cat([(rays - centroid).flatten(2), seen.flatten(2), centroid.flatten(2)], 2).flatten(0, 1)


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_window_without_anybody_is_finite_and_missing_values_do_not_matter(settings: TrainSettings) -> None:
    torch.manual_seed(0)
    model = build_model(settings).eval()
    keypoints = torch.rand(6, settings.frames, 14, 3) * 900
    keypoints[..., 2] = (torch.rand(6, settings.frames, 14) > 0.4).float()
    keypoints[0, ..., 2] = 0
    intrinsics = torch.tensor([[1000.0, 1000, 500, 500]]).repeat(6, 1)
    out = model(keypoints, intrinsics)
    for junk in (float("nan"), 1e9, -5.0):
        spoilt = torch.where(keypoints[..., 2:] > 0, keypoints, torch.tensor([junk, junk, 0.0]))
        assert torch.equal(model(spoilt, intrinsics), out)
    assert out.isfinite().all()


@pytest.mark.parametrize("name", SKELETONS)
def test_every_skeleton_has_five_parts_and_a_lifter(name: str) -> None:
    s = SKELETONS[name]
    assert set(s.parts) == {"torso", "left_arm", "right_arm", "left_leg", "right_leg"}
    assert [s.parts[m] for m in s.mirror] == [p.replace("left", "?").replace("right", "left").replace("?", "right")
                                              for p in s.parts]  # fmt: skip
    assert sorted((s.root, *s.outwards)) == list(range(len(s.joints)))
    assert set(s.beyond(s.root)) == set(s.outwards)
    wrist, elbow = s.joints.index("left_wrist"), s.joints.index("left_elbow")
    assert wrist in s.beyond(elbow)
    assert elbow not in s.beyond(wrist)
    model = build_model(replace(TINY, skeleton=name)).eval()
    assert model(torch.rand(2, 1, len(s.joints), 3), torch.ones(2, 4)).shape == (2, len(s.joints), 3)


def test_dropout_and_batch_norm_stop_apart() -> None:
    settings = replace(TINY, dropout=0.5, dropout_until=0.25, batch_norm_until=0.75, epochs=4)
    model = build_model(settings)
    drops, norms = [], []
    for epoch in range(4):
        set_mode(model, settings, epoch)
        drops.append({m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)})
        norms.append({m.training for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)})
    assert drops == [{0.5}, {0.0}, {0.0}, {0.0}]
    assert norms == [{True}, {True}, {True}, {False}]


def test_bf16_training_ends_near_fp32(sessions: list[Session], tmp_path: Path) -> None:
    settings = replace(TINY, epochs=10)
    scores = [
        train(sessions, tmp_path / p, replace(settings, precision=p), sessions).validation[-1][1]
        for p in ("fp32", "bf16")
    ]
    assert scores[0] != scores[1]
    assert scores[1] < 1.1 * scores[0]


@pytest.mark.parametrize(("model", "step"), [("tcn", 16), ("transformer", 32)])
@pytest.mark.parametrize("trunk", ["parts", "dense"])
def test_every_width_that_the_settings_take_makes_a_lifter(model: str, step: int, trunk: str) -> None:
    kind = replace(TINY, model=model, trunk=trunk, frames=9)  # type: ignore[arg-type]
    for width in range(step, 257, step):
        lifter = build_model(replace(kind, width=width)).eval()
        assert lifter(torch.rand(2, 9, 14, 3), torch.ones(2, 4)).isfinite().all()
    with pytest.raises(EdgeliftError, match="--width"):
        replace(kind, width=3 * step // 2)
