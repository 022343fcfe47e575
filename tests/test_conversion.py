"""Conversions as a user asks for them: what is stated, what is refused, what is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.conversion import FORMATS, Conversion, convert
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.recordings import Recording
from edgelift.poses.rigs import read_rig, write_rig
from edgelift.poses.sessions import Session, load_session

from .json_files import FPS, FRAMES, detected_session, dump, people_of, write_mmpose


@pytest.fixture(scope="module")
def filmed() -> Session:
    return detected_session()


@pytest.fixture
def takes(filmed: Session, tmp_path: Path) -> Path:
    for view, camera in enumerate(filmed.rig):
        write_mmpose(1)(tmp_path / "takes" / camera.name, people_of(filmed, view))
    write_rig(filmed.rig, tmp_path / "rig.toml")
    return tmp_path


def asked(home: Path, **changes: Any) -> Conversion:
    rig = str(home / "rig.toml")
    whole = Conversion(home / "takes", home / "take.npz", "mmpose", "h36m17", FPS, cameras=rig, units="m")
    return replace(whole, **changes)


def refused(home: Path, **changes: Any) -> str:
    with pytest.raises(EdgeliftError) as caught:
        convert(asked(home, **changes))
    assert not (home / "take.npz").exists()
    return str(caught.value)


def test_a_conversion_chooses_the_person_all_views_see(filmed: Session, takes: Path) -> None:
    facts, lines = convert(asked(takes))
    assert (facts["views"], facts["frames"]) == (3, FRAMES)
    assert lines[-1].startswith("3 views, 60 frames, h36m17")
    session = load_session(takes / "take.npz")
    assert session.camera_names == filmed.camera_names
    # whoever stands beside in odd frames is as far from the lens in all views: only even frames are certain
    np.testing.assert_array_equal(session.keypoints[:, ::2], filmed.keypoints[:, ::2])


def test_views_without_a_rig_take_the_size_of_their_images(filmed: Session, takes: Path) -> None:
    convert(asked(takes, cameras=None, units=None, size="1088x1920"))
    session = load_session(takes / "take.npz")
    assert (session.cameras, session.size(2)) == (None, (1088, 1920))
    for size in ("1088", "0x5", "1x999999999999", "²x3", "axb"):
        (takes / "take.npz").unlink(missing_ok=True)
        assert "WIDTHxHEIGHT" in refused(takes, cameras=None, units=None, size=size)


def test_what_is_not_stated_is_refused_with_what_the_files_tell(takes: Path) -> None:
    lacking = refused(takes, skeleton=None, fps=None)
    assert "--skeleton, --fps: received nothing; expected what the mmpose files were made with" in lacking
    assert "17 joints (coco17 or h36m17); named pelvis, right_hip" in lacking
    assert "cam_01 60 frames numbered 0 to 59" in lacking
    assert refused(takes, fps=None).startswith("--fps: received nothing")
    for format_ in ("deeplabcut", "sleap", "videopose3d", "freemocap"):
        assert "--skeleton: received nothing" in refused(takes, format=format_, skeleton=None)
    unit = refused(takes, units=None)
    assert "metres" in unit
    assert "cannot be read" in refused(takes, skeleton=None, source=takes / "absent")


def test_flags_that_a_format_does_not_know_are_refused(takes: Path) -> None:
    assert "--poses: received --format mmpose" in refused(takes, poses=Path("x"))
    assert "--joints, --to: received --format mmpose" in refused(takes, joints=Path("x"), to="trc")
    assert "--skeleton, --fps: received --format pose2d" in refused(takes, format="pose2d")
    assert "--size: received --cameras --units as well" in refused(takes, size="10x10")
    session = refused(takes, format="session", people="all")
    assert "--skeleton, --fps, --cameras, --units, --people: received --format session" in session
    assert "--to" in refused(takes, format="session", skeleton=None, fps=None, cameras=None, units=None)
    assert "ends in .npz" in refused(takes, output=takes / "x")
    assert "--cameras: received nothing" in refused(takes, cameras=None, units=None)


def test_all_people_are_written_beside_each_other(
    filmed: Session, takes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgelift.poses import conversion
    from edgelift.poses.recordings import Selection

    def two(recording: Recording, cameras: Any) -> list[tuple[Session, Selection]]:
        assert [c.name for c in cameras] == [v.name for v in recording.views]
        return [(replace(filmed, name=f"{recording.name}_{n}"), Selection(f"person {n}", ())) for n in (1, 2)]

    monkeypatch.setattr(conversion, "separate_people", two)
    facts, lines = convert(asked(takes, people="all", output=takes / "out"))
    assert [p["session"] for p in facts["people"]] == [str(takes / "out" / f"takes_{n}.npz") for n in (1, 2)]
    assert "person: person 2" in lines
    convert(asked(takes, people="all", output=takes / "out" / "x.npz"))
    names = sorted(path.name for path in (takes / "out").iterdir())
    assert names == ["takes_1.npz", "takes_2.npz", "x_1.npz", "x_2.npz"]
    assert "--cameras" in refused(takes, people="all", cameras=None, units=None)


def test_a_rig_is_written_anew_in_metres(filmed: Session, tmp_path: Path) -> None:
    cameras = [{"id": c.name, "K": c.K.tolist(), "dist": c.dist.tolist(), "R": c.R.tolist(), "t": c.t.tolist(),
                "size": c.size} for c in filmed.rig]  # fmt: skip
    dump(tmp_path / "rigs.json", {"rigs": {"lab": cameras}})
    facts, _ = convert(Conversion(Path(f"{tmp_path}/rigs.json:lab"), tmp_path / "rig.toml", "cameras"))
    assert facts["cameras"] == list(filmed.camera_names)
    for one, other in zip(read_rig(str(tmp_path / "rig.toml"), "m"), filmed.rig, strict=True):
        np.testing.assert_allclose(one.R, other.R, atol=1e-12)
        np.testing.assert_allclose(one.t, other.t, atol=1e-12)
    with pytest.raises(EdgeliftError, match=r"ends in \.toml"):
        convert(Conversion(tmp_path / "rig.toml", tmp_path / "rig.npz", "cameras", units="m"))


def test_joint_names_come_from_toml_or_json_and_nothing_else(tmp_path: Path) -> None:
    from edgelift.poses.conversion import read_joint_names

    (tmp_path / "a.toml").write_text('snout = "nose"\n"left paw" = "left_wrist"\n')
    dump(tmp_path / "a.json", {"snout": "nose", "left paw": "left_wrist"})
    assert read_joint_names(tmp_path / "a.toml") == read_joint_names(tmp_path / "a.json")
    for name, text in (("b.toml", "snout = 1"), ("b.json", "[]"), ("c.toml", ""), ("d.toml", "x = " + "[" * 10**5)):
        (tmp_path / name).write_text(text)
        with pytest.raises(EdgeliftError, match=name.replace(".", r"\.")):
            read_joint_names(tmp_path / name)


def test_the_command_line_knows_every_format() -> None:
    from typing import get_args

    from edgelift.cli.files import Format

    assert set(get_args(Format)) == set(FORMATS)
