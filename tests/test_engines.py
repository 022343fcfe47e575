"""Real TensorRT-RTX engines, built on the CPU: every kind of lifter, precision, batch and target; what is refused."""

from __future__ import annotations

import itertools
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from edgelift.export.additions import Addition, add
from edgelift.export.precision import activations, to_half, to_quantised
from edgelift.poses.errors import EdgeliftError
from edgelift.runtime.attachments import Attachment, attach, attachments
from edgelift.runtime.bundle import Bundle, load_bundle, seal
from edgelift.runtime.contents import contents
from edgelift.runtime.engines.build import BuildSettings, build_plan
from edgelift.runtime.engines.make import make_engine
from edgelift.runtime.engines.plan import read_header
from edgelift.runtime.engines.store import Gpu, obstacle, runnable_engine, verify_plan

from .conftest import FORBID_TRAINING
from .lifters import KINDS, make_bundle

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_120")
VERSION = "1.7.1.116"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    home = tmp_path_factory.mktemp("engines")
    return {kind: make_bundle(home / kind, kind) for kind in KINDS}


@pytest.fixture
def fresh(bundles: dict[str, Bundle], tmp_path: Path) -> Bundle:
    return load_bundle(Path(shutil.copytree(bundles["frame"].path, tmp_path / "bundle")))


def graph(bundle: Bundle, precision: str) -> bytes:
    model = onnx.load(bundle.onnx)
    if precision == "fp16":
        model = to_half(model)
    if precision in ("int8", "fp8"):
        model = to_quantised(model, dict.fromkeys(activations(model), (-3.0, 3.0)), precision)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "fp8"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_engine_is_built_and_its_header_read_back(bundles: dict[str, Bundle], kind: str, precision: str) -> None:
    source = graph(bundles[kind], precision)
    targets = [t for t in TARGETS if precision != "fp8" or t in ("sm_89", "sm_120")]
    for target, max_batch in itertools.product(targets, (1, 16)):
        built = build_plan(source, BuildSettings("rtx", precision, (target,), max_batch), kind)
        header = read_header(built.plan, kind)
        assert (header.flavour, header.version, header.length) == ("rtx", VERSION, len(built.plan))
        assert built.version == VERSION


def test_one_engine_may_be_for_several_targets_or_for_none_in_particular(bundles: dict[str, Bundle]) -> None:
    source = graph(bundles["frame"], "fp32")
    one, two = (build_plan(source, BuildSettings("rtx", "fp32", t), "x").plan for t in (("sm_86",), ("sm_86", "sm_89")))
    assert len(two) > len(one)
    assert read_header(build_plan(source, BuildSettings("rtx"), "x").plan, "x").flavour == "rtx"


def test_a_half_engine_of_some_size_is_smaller(tmp_path: Path) -> None:
    """Not silently FP32: the plan of a lifter whose weights outweigh its code."""
    from edgelift.export.onnx_graph import export_onnx
    from edgelift.trainer.models import build_model
    from edgelift.trainer.settings import TrainSettings

    model = export_onnx(build_model(TrainSettings(width=512)).eval(), 1, 14, tmp_path / "x.onnx")
    sizes = [
        len(build_plan(m.SerializeToString(), BuildSettings("rtx", p, ("sm_89",)), "x").plan)
        for p, m in (("fp32", model), ("fp16", to_half(model)))
    ]
    assert sizes[1] < 0.65 * sizes[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (BuildSettings("rtx", "fp8", ("sm_86",)), "a GPU without FP8.*sm_89"),
        (BuildSettings("rtx", "fp32", ("sm_75",)), "Turing.*fp16"),
        (BuildSettings("rtx", "fp32", ("sm_90",)), "sm_120.*engine tensorrt"),
        (BuildSettings("rtx", "int4", ("sm_89",)), "fp32 or fp16"),
        (BuildSettings("rtx", max_batch=0), "1 or more"),
        (BuildSettings("tensorrt", targets=("sm_89",)), "the machine it runs on"),
        (BuildSettings("tensorrt"), r"pip install 'edgelift\[tensorrt\]'"),
    ],
)
def test_what_cannot_be_built_is_refused(bundles: dict[str, Bundle], settings: BuildSettings, message: str) -> None:
    with pytest.raises(EdgeliftError, match=message):
        build_plan(graph(bundles["frame"], "fp32"), settings, "x")


def test_tensorrt_s_own_refusal_is_told_in_its_words(bundles: dict[str, Bundle]) -> None:
    with pytest.raises(EdgeliftError, match=r"TensorRT-RTX 1\.7\.1\.116: received no engine: .*CUDA_SUCCESS"):
        build_plan(graph(bundles["frame"], "fp32"), BuildSettings("rtx", refittable=True), "x")
    with pytest.raises(EdgeliftError, match="building nonsense"):
        build_plan(b"no graph at all", BuildSettings("rtx"), "nonsense")


def test_the_seam_marks_every_weight_as_refittable(bundles: dict[str, Bundle]) -> None:
    from edgelift.runtime.engines.build import parse
    from edgelift.runtime.engines.flavours import load

    for bundle in bundles.values():
        trt = load("rtx")
        builder = trt.api.Builder(trt.logger)
        network, parser = parse(trt, builder, bundle.onnx.read_bytes(), "x")
        assert all(network.mark_weights_refittable(name) for name in bundle.manifest["graph"]["parameters"])
        assert not network.mark_weights_refittable("nobody.weight")
        trt.messages.clear()
        del network, parser, builder


def test_an_engine_lies_in_the_bundle_with_all_that_is_known_of_it(fresh: Bundle) -> None:
    made = add(fresh, Addition("rtx", "fp16", ("sm_89",)))
    assert [a.path.relative_to(fresh.path).as_posix() for a in made] == [
        "graphs/fp16.onnx", f"engines/rtx-{VERSION}-sm_89-fp16-b16.plan",
    ]  # fmt: skip
    facts = attachments(fresh, "engines")[0].facts
    assert facts["flavour"] == "rtx"
    assert facts["targets"] == ["sm_89"]
    assert facts["profiles"] == [{"min": 1, "opt": 1, "max": 16}]
    assert facts["graph_parity"]["worst_mm"] <= 1
    assert facts["engine_parity"].startswith("not run: no NVIDIA GPU")
    assert facts["speed"].startswith("not measured")
    assert facts["refit_names"] == fresh.manifest["graph"]["parameters"]
    assert load_bundle(fresh.path).manifest == fresh.manifest  # it is the bundle that was exported
    assert verify_plan(made[1])[:4] == b"vtrt"


def test_building_needs_no_torch_and_no_onnx(fresh: Bundle) -> None:
    code = (
        FORBID_TRAINING
        + "from edgelift.cli import main\nsys.argv[1:] = ['build', sys.argv[1], '--engine', 'rtx', '--json']\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(fresh.path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["flavour"] == "rtx"
    assert attachments(fresh, "engines")[0].facts["targets"] == ["portable"]


def test_a_graph_that_was_never_exported_is_asked_for(fresh: Bundle) -> None:
    with pytest.raises(EdgeliftError, match=r"edgelift export RUN -o .* --precision fp16"):
        make_engine(fresh, BuildSettings("rtx", "fp16"))


@pytest.fixture
def engine(fresh: Bundle) -> Attachment:
    return make_engine(fresh, BuildSettings("rtx", "fp32", ("sm_89",)))


ADA = Gpu("NVIDIA L4", "sm_89")


def test_obstacles_are_told_before_tensorrt_is_asked(engine: Attachment) -> None:
    facts = engine.facts
    assert obstacle(facts, VERSION, ADA) is None
    assert obstacle(facts, None, ADA) == "TensorRT-RTX is not installed here"
    assert obstacle(facts, "1.8.0.1", ADA) == "it was built by TensorRT-RTX 1.7.1.116, here is 1.8.0.1"
    assert obstacle(facts, VERSION, None) == "no NVIDIA GPU here"
    assert obstacle(facts, VERSION, Gpu("RTX 3090", "sm_86")) == "it was built for sm_89, RTX 3090 is sm_86"
    portable = facts | {"targets": ["portable"]}
    assert obstacle(portable, VERSION, Gpu("RTX 3090", "sm_86")) is None
    assert obstacle(portable, VERSION, Gpu("T4", "sm_75")) == "it needs sm_80 or newer, T4 is not"
    own = facts | {"flavour": "tensorrt", "gpu": "Orin", "targets": ["sm_87"]}
    assert obstacle(own, VERSION, Gpu("Orin", "sm_87")) is None
    assert obstacle(own, VERSION, Gpu("Orin Nano", "sm_87")) == "it was built on Orin, here is Orin Nano"


def test_an_engine_for_elsewhere_names_the_command_that_rebuilds_it(fresh: Bundle, engine: Attachment) -> None:
    assert runnable_engine(fresh, "rtx", "fp32", VERSION, ADA).path == engine.path
    with pytest.raises(EdgeliftError, match=r"here is 1\.8.*edgelift build .*bundle --engine rtx --precision fp32"):
        runnable_engine(fresh, "rtx", "fp32", "1.8.0.1", ADA)
    with pytest.raises(EdgeliftError, match=r"received none.*edgelift build .* --engine tensorrt --precision fp16"):
        runnable_engine(fresh, "tensorrt", "fp16", "10.3.0.26", ADA)


def test_a_flipped_byte_is_refused_before_anybody_deserialises_it(engine: Attachment) -> None:
    raw = bytearray(engine.path.read_bytes())
    raw[len(raw) // 2] ^= 1
    engine.path.write_bytes(raw)
    with pytest.raises(EdgeliftError, match="tampered"):
        verify_plan(engine)


def test_a_truncated_plan_is_refused(fresh: Bundle, engine: Attachment) -> None:
    plan = engine.path.read_bytes()
    for cut in (plan[:-1], plan[: len(plan) // 2], plan[:20]):
        short = attach(fresh, "engines", "short.plan", cut, engine.facts)  # even where its hash is right
        with pytest.raises(EdgeliftError, match=r"truncated|begin"):
            verify_plan(short)


def test_a_sidecar_that_lies_is_refused(fresh: Bundle, engine: Attachment) -> None:
    told = json.loads(engine.sidecar.read_text())
    engine.sidecar.write_text(json.dumps(told | {"version": "9.9.9.9"}))
    with pytest.raises(EdgeliftError, match="seal"):
        attachments(fresh, "engines")
    resealed = told | {"version": "9.9.9.9"}
    engine.sidecar.write_text(json.dumps(resealed | {"seal": seal(resealed)}))
    [liar] = attachments(fresh, "engines")
    with pytest.raises(EdgeliftError, match=r"a plan of rtx 1\.7\.1\.116; expected rtx 9\.9\.9\.9"):
        verify_plan(liar)
    engine.sidecar.write_text("{")
    with pytest.raises(EdgeliftError, match="unreadable sidecar"):
        attachments(fresh, "engines")


def test_an_engine_of_another_bundle_is_refused(fresh: Bundle, engine: Attachment, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", seed=1)
    shutil.copytree(fresh.path / "engines", other.path / "engines")
    assert load_bundle(other.path)  # what it was exported with is all there
    with pytest.raises(EdgeliftError, match="made for another bundle"):
        attachments(other, "engines")


def test_headers_of_full_tensorrt_are_read_as_well() -> None:
    header = b"ftrt" + bytes(12) + struct.pack("<Q", 0) + bytes([10, 3, 0, 26]) + bytes(100)
    assert read_header(header, "x").version == "10.3.0.26"
    assert read_header(header, "x").flavour == "tensorrt"
    with pytest.raises(EdgeliftError, match="begin b'PK"):
        read_header(b"PK\x03\x04" + bytes(100), "x")


def test_contents_say_which_machine_runs_what(fresh: Bundle, engine: Attachment) -> None:
    (fresh.path / "engines" / "stray.plan").write_bytes(b"vtrt")
    told = contents(fresh, verify=True)
    [entry] = told["engines"]
    assert entry["runs_on"] == "GPUs of sm_89 with TensorRT-RTX 1.7.1.116"
    assert entry["why_not"] == "no NVIDIA GPU here"
    assert entry["rebuild"].startswith("edgelift build ")
    assert told["unlisted"] == ["engines/stray.plan"]
    engine.path.write_bytes(b"vtrt")
    assert contents(fresh)["verified"] is False
    with pytest.raises(EdgeliftError, match="tampered"):
        contents(fresh, verify=True)


def test_a_cpu_file_is_kept_beside_the_engines_and_runs(fresh: Bundle) -> None:
    from edgelift.runtime.backends import open_backend

    with pytest.raises(EdgeliftError, match="--engine cpu"), open_backend(fresh, "cpu", "int8"):
        pass
    [made] = add(fresh, Addition("cpu", "int8", force=True))  # tiny: it need not be faster
    assert made.path.name == "cpu-int8.onnx"
    assert set(made.facts["speed"]) == {"p50_us", "fp32_p50_us"}
    arrays = fresh.reference()
    with open_backend(fresh, "cpu") as plain, open_backend(fresh, "cpu", "int8") as reduced:
        assert reduced.precision == "int8"
        both = [b(arrays["keypoints"], arrays["intrinsics"]) for b in (plain, reduced)]
    assert 0 < abs(both[0] - both[1]).max() * 1000 < 50
