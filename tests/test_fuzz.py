"""Every reader returns or raises EdgeliftError, whatever a file holds; what fuzzing (fuzz/) has found stays mended."""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgelift.fuzz.mutations import mutate, npy, zipped
from edgelift.fuzz.targets import TARGETS, Target
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.formats.hdf5 import read_hdf5
from edgelift.poses.formats.safe_pickle import load_pickle, load_pickled_arrays
from edgelift.poses.formats.untrusted import twice
from edgelift.poses.motion import load_motion
from edgelift.poses.rigs import read_rig
from edgelift.poses.sessions import load_arrays, load_session, save_arrays

ROUGH = settings(
    deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
IN_A_PROCESS = ["sleap", "cameras h5"]  # each HDF5 file takes a second
HERE = [name for name in TARGETS if name not in IN_A_PROCESS]
JSON = [name for name in HERE if TARGETS[name].form == "json"]


@pytest.fixture
def laid_out(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Target, Path, list[bytes]]:
    target = TARGETS[request.param]
    folder, seeds = target.prepare(tmp_path / "home")
    return target, folder, seeds


Laid = tuple[Target, Path, list[bytes]]


@pytest.mark.parametrize("laid_out", HERE, indirect=True)
def test_sound_files_are_read_and_changed_ones_are_refused(laid_out: Laid) -> None:
    target, folder, seeds = laid_out
    assert target.takes(folder, seeds[0])  # else all the rest would pass on files that are refused at their first byte
    chances = [Random(seed) for seed in range(50)]
    made = {mutate(seeds[0], target.form, random) for random in chances}
    assert len(made) > 25
    assert not all(target.takes(folder, data) for data in made)


@pytest.mark.parametrize("laid_out", HERE, indirect=True)
@given(random=st.randoms(use_true_random=False), twice=st.booleans())
@settings(ROUGH, max_examples=30)
def test_whatever_is_changed(laid_out: Laid, random: Random, twice: bool) -> None:
    target, folder, seeds = laid_out
    data = mutate(random.choice(seeds), target.form, random)
    target.takes(folder, mutate(data, target.form, random) if twice else data)


@pytest.mark.parametrize("laid_out", HERE, indirect=True)
@given(share=st.floats(0, 1), flip=st.integers(0, 255))
@settings(ROUGH, max_examples=10)
def test_wherever_it_is_cut_or_flipped(laid_out: Laid, share: float, flip: int) -> None:
    target, folder, seeds = laid_out
    data = seeds[-1]
    at = int(share * (len(data) - 1))
    target.takes(folder, data[:at])
    target.takes(folder, data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])


@pytest.mark.parametrize("laid_out", IN_A_PROCESS, indirect=True)
def test_hdf5_that_is_damaged(laid_out: Laid) -> None:
    pytest.importorskip("h5py", reason="needs the extra `files`")
    target, folder, seeds = laid_out
    assert target.takes(folder, seeds[0])
    for seed in range(3):
        target.takes(folder, mutate(seeds[0], "bytes", Random(seed)))


@pytest.mark.parametrize("laid_out", JSON, indirect=True)
def test_nested_as_deeply_as_json_is_just_read(laid_out: Laid) -> None:
    """What is told of a value may not be nested more deeply than what its parser survives."""
    target, folder, seeds = laid_out
    text = seeds[0].decode()
    values = [match.span(1) for match in re.finditer(r'[:\[,] ?("[^"]*"|-?[0-9.]+)', text)]
    for start, end in (values[0], values[len(values) // 3], values[-1]):
        for depth in range(850, 1000, 3):
            target.takes(folder, f"{text[:start]}{'[' * depth}{']' * depth}{text[end:]}".encode())


# what was found


def refused(match: str, read: Callable[..., object], *asked: Any) -> None:
    with pytest.raises(EdgeliftError, match=match) as caught:
        read(*asked)
    assert len(str(caught.value)) < 2000


def archive(path: Path, **arrays: Any) -> Path:
    path.write_bytes(zipped({f"{name}.npy": npy(np.asarray(array)) for name, array in arrays.items()}))
    return path


def beyond_unicode(kind: str = "<") -> NDArray[Any]:
    """A text of one number that is no character."""
    return np.frombuffer(struct.pack(f"{kind}I", 0x7FFFFFFF), f"{kind}U1")


@pytest.mark.parametrize("order", "<>")
def test_texts_that_are_none(order: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", x=beyond_unicode(order))
    for read in (load_arrays, load_pickled_arrays):
        refused("no characters", read, path)
    refused("no characters", load_arrays, archive(path, x=np.array(["a", "\ud800"])))
    assert load_arrays(archive(path, x=np.array([["a", "\U0010ffff"]], f"{order}U1")))["x"].shape == (1, 2)


def test_tables_of_columns_are_no_arrays_of_ours(tmp_path: Path) -> None:
    table = np.zeros(2, [("x", "f8"), ("y", "U3")])
    refused(r"\('x', '<f8'\)", load_arrays, archive(tmp_path / "a.npz", x=table))


@pytest.mark.parametrize("name", ["keypoints", "timestamps", "time_offset_s", "camera_K", "camera_size", "poses"])
@pytest.mark.parametrize("kind", ["c8", "?", "U9", "m8[s]"])
def test_numbers_of_a_session_are_real(name: str, kind: str, tmp_path: Path) -> None:
    folder, (whole, _) = TARGETS["session"].prepare(tmp_path / "home")
    (folder / "take.npz").write_bytes(whole)
    arrays = load_arrays(folder / "take.npz")
    with np.errstate(invalid="ignore"):
        changed_ones = {**arrays, name: np.zeros(arrays[name].shape, kind)}
    refused("expected real numbers", load_session, archive(tmp_path / "take.npz", **changed_ones))


ODD_CLIPS = {
    "one start": {"clip_start": np.array(0)},
    "no list of rates": {"clip_fps": np.array(20.0)},
    "fewer names": {"clip_name": np.array(["a"])},
    "names in columns": {"clip_name": np.array([["a", "b"]])},
    "starts in parts": {"clip_start": np.array([0, 1.5])},
    "starts that fall": {"clip_start": np.array([3, 1])},
    "starts before all": {"clip_start": np.array([-2, 1])},
    "starts after all": {"clip_start": np.array([0, 9])},
    "starts as texts": {"clip_start": np.array(["0", "1"])},
    "rates as texts": {"clip_fps": np.array(["x", "y"])},
    "no rate": {"clip_fps": np.array([20, 0])},
    "rates that are none": {"clip_fps": np.array([20, np.nan])},
    "complex poses": {"poses": np.zeros((4, 17, 3), "c8")},
    "splits as numbers": {"clip_split": np.zeros(2)},
    "subjects as bytes": {"clip_subject": np.array([b"a", b"b"])},
}


@pytest.mark.parametrize("odd", ODD_CLIPS.values(), ids=ODD_CLIPS.keys())
def test_clips_of_a_motion_file_are_cut_out_of_its_poses(odd: dict[str, Any], tmp_path: Path) -> None:
    folder, (whole,) = TARGETS["motion"].prepare(tmp_path / "home")
    (folder / "motion.npz").write_bytes(whole)
    arrays = load_arrays(folder / "motion.npz")
    assert [len(clip.poses) for clip in load_motion(folder / "motion.npz")] == [2, 2]
    ended = archive(folder / "motion.npz", **{**arrays, "clip_start": np.array([0, 1, 4], "u8")})
    assert [len(clip.poses) for clip in load_motion(ended)] == [1, 3]
    refused("expected", load_motion, archive(folder / "motion.npz", **{**arrays, **odd}))


ODD_VIEWS: dict[str, Any] = {
    "no list": 7, "a flag": True, "an array of nothing": np.array(None), "texts": [np.full((2, 17, 2), "x")] * 2,
    "complex": [np.zeros((2, 17, 2), "c8")] * 2, "lists": [[[[0.0, 0.0]] * 17]] * 2, "a dictionary": {0: 1, 1: 2},
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD_VIEWS.values(), ids=ODD_VIEWS.keys())
def test_views_of_videopose3d_are_arrays_of_real_numbers(odd: Any, tmp_path: Path) -> None:
    target = TARGETS["videopose3d 2D"]
    folder, _ = target.prepare(tmp_path / "home")
    assert not target.takes(folder, in_npz(positions_2d={"S1": {"walk": odd}}))
    assert not target.takes(folder, in_npz(positions_2d={"S1": {7: odd}}))
    assert not TARGETS["videopose3d 3D"].takes(folder, in_npz(positions_3d={"S1": {"walk": odd}}))


@pytest.mark.parametrize("count", [[17], np.array([17, 17]), "17", 10**30, None])
def test_a_number_of_joints_that_is_none(count: Any, tmp_path: Path) -> None:
    target = TARGETS["videopose3d 2D"]
    folder, _ = target.prepare(tmp_path / "home")
    positions = {"S1": {"walk": [np.zeros((2, 17, 2))] * 2}}
    assert target.takes(folder, in_npz(positions_2d=positions, metadata={"layout_name": nested(60)}))
    assert not target.takes(folder, in_npz(positions_2d=positions, metadata={"num_joints": count}))


def held(value: Any) -> NDArray[Any]:
    """An array of that one object."""
    holder = np.empty((), object)
    holder[()] = value
    return holder


def in_npz(**objects: Any) -> bytes:
    return zipped({f"{name}.npy": npy(held(value)) for name, value in objects.items()})


def nested(depth: int) -> list[Any]:
    """A list of which each level holds the next one twice: small as a pickle, endless as a text."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value, value]
    return value


class Calls:
    """Pickles as a call."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def key_of_tuples(depth: int) -> bytes:
    """A pickle of {key: None}, the key a tuple of twice a tuple of twice ...: it has no end to hash."""
    levels = b"".join(b"h" + bytes([level]) + b"\x86\x94" for level in range(depth))
    return b"\x80\x04)\x94" + levels + b"}h" + bytes([depth]) + b"Ns."


def test_small_pickles_that_take_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    fields: Any = "f8"
    for _ in range(60):
        fields = [("a", fields), ("b", fields)]
    shares = key_of_tuples(60)
    hidden = shares.replace(b"\x86\x94", b"\x86(1\x94")  # a mark is put and taken away before each is named
    for pickled, told in (
        (shares, "tuples again and again"),
        (hidden, "tuples again and again"),
        (b"\x80\x04)" + b"2\x86" * 60 + b"}\x94h\x00.", "tuples again and again"),
        (pickle.dumps(Calls(np.dtype, (fields,)), 4), "numpy.dtype with fields"),
        (pickle.dumps(Calls(np.dtype, ("V8",)), 4), "numpy.dtype with fields"),
        (pickle.dumps(10**5000), "bits"),
        (pickle.dumps(Calls(np.float64(0).__reduce__()[0], (np.dtype("O"), (1, 2))), 2), "numpy.scalar of an object"),
    ):
        path.write_bytes(pickled)
        refused(told, load_pickle, path)
    path.write_bytes(key_of_tuples(8))
    assert len(load_pickle(path)) == 1
    shared = ("S1", "walk")
    path.write_bytes(pickle.dumps([{shared: n} for n in range(10)]))
    assert len(load_pickle(path)) == 10


def pickled_array(dtype: Calls, data: Any, shape: Any = (1,)) -> Calls:
    return Calls(np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, shape, dtype, False, data))


def test_types_that_lie_about_themselves(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    floats, objects = (3, "<", None, None, None, -1, -1), (3, "|", None, None, None, -1, -1)
    # numpy's own loader takes these bytes for the address of an object, and dies of it
    bytes_as_objects = pickled_array(Calls(np.dtype, ("O", False, True), (*objects, 0)), b"A" * 8)
    no_type = pickled_array(Calls(complex, (1, 2)), b"A" * 8)
    wide = Calls(np.dtype, ("U1", False, True), (3, "<", None, None, None, 2**31 - 4, 4, 8))
    for pickled in (bytes_as_objects, no_type, pickled_array(wide, b"", (1,))):
        path.write_bytes(pickle.dumps(pickled))
        refused("pickle", load_pickle, path)
    for flags in (0, 1, 63):
        state = (3, "<", None, ("a",), {"a": np.dtype("f8")}, 8, 1, flags)
        for told in (state, (*floats, flags)):
            path.write_bytes(pickle.dumps(pickled_array(Calls(np.dtype, ("f8", False, True), told), bytes(8))))
            read = load_pickle(path)
            assert (read.dtype, read.tolist()) == (np.dtype("f8"), [0.0])
    for array in (np.array([1, 2], ">i2"), np.array(["é", "xy"]), np.array([{}, None], object), np.array([True])):
        path.write_bytes(pickle.dumps(array))
        read = load_pickle(path)
        assert (read.dtype, read.tolist()) == (pickle.loads(pickle.dumps(array)).dtype, array.tolist())
    path.write_bytes(pickle.dumps(beyond_unicode()))
    refused("no characters", load_pickle, path)


def test_values_of_cameras_that_are_endless_as_text(tmp_path: Path) -> None:
    path = tmp_path / "cameras.pkl"
    folder, (whole,) = TARGETS["cameras mmpose"].prepare(tmp_path / "home")
    (folder / "cameras.pkl").write_bytes(whole)
    cameras = load_pickle(folder / "cameras.pkl")
    for field in ("R", "T", "f", "k", "w", "id"):
        for value in (nested(60), held(nested(60))):
            path.write_bytes(pickle.dumps({key: {**view, field: value} for key, view in cameras.items()}))
            refused("expected", read_rig, f"{path}:S9", "m")
    sets: frozenset[Any] = frozenset([1])
    for _ in range(40):
        sets = frozenset([sets, (sets,)])
    path.write_bytes(pickle.dumps({("S9", sets): {}}))
    refused("MMPose", read_rig, f"{path}:S9", "m")


def test_cameras_h5_that_crashes_the_library(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="needs the extra `files`")
    target = TARGETS["cameras h5"]
    folder, (whole,) = target.prepare(tmp_path / "home")
    tree = whole.index(b"TREE")
    # a node of the tree that lists the groups is its own child: the library goes down until there is no stack
    looped = whole[: tree + 5] + b"\1" + whole[tree + 6 : tree + 32] + struct.pack("<Q", tree) + whole[tree + 40 :]
    (folder / "cameras.h5").write_bytes(looped)
    refused("damaged HDF5|unreadable", read_rig, f"{folder / 'cameras.h5'}:S9", "mm")


@pytest.mark.parametrize("key", ["a." * 50_000 + "a", '"." .' * 50_000 + "a", "'.'." * 50_000 + "a"])
def test_toml_keys_that_take_for_ever(key: str, tmp_path: Path) -> None:
    for text in (f"{key} = 1", f"[{key}]", f"a = {{ {key} = 1 }}", f"a = [[1.5, 2.5]]\n{key} = 1"):
        (tmp_path / "rig.toml").write_text(text)
        refused("a hundred parts", read_rig, str(tmp_path / "rig.toml"), "m")
    numbers = ", ".join(["1.5"] * 500)
    (tmp_path / "names.toml").write_text(f'a.b.c = "nose" # {numbers}')
    assert read_rig(written(tmp_path, f"x = [{numbers}]\n"), "m")


def written(folder: Path, more: str) -> str:
    """A sound rig with more before it."""
    target = TARGETS["cameras toml"]
    place, (whole, *_) = target.prepare(folder / "sound")
    (place / target.file).write_bytes(more.encode() + whole)
    return str(place / target.file)


def test_many_views_in_a_small_file(tmp_path: Path) -> None:
    target = TARGETS["mediapipe npz"]
    folder, _ = target.prepare(tmp_path / "home")
    keypoints = np.ones((200_000, 1, 33, 3), "u1")
    save_arrays(folder / target.file, {"keypoints_2d": keypoints, "camera_names": np.arange(200_000).astype(str)})
    assert (folder / target.file).stat().st_size < 2**20
    assert not target.takes(folder, (folder / target.file).read_bytes())


def test_a_line_without_end(tmp_path: Path) -> None:
    target = TARGETS["pose2d"]
    folder, (whole, _) = target.prepare(tmp_path / "home")
    (folder / target.file).write_bytes(whole + b"\n" + b"[]," * 2**23)
    refused("line 5: received more than", target.read, folder)


@pytest.mark.parametrize("names", [list("ab") * 100_000, list(map(str, range(200_000)))])
def test_what_is_there_twice_is_found_in_one_pass(names: list[str]) -> None:
    assert twice(names) == (["a", "b"] if names[0] == "a" else [])


def test_odd_columns_of_landmarks(tmp_path: Path) -> None:
    target = TARGETS["mediapipe csv"]
    folder, (whole, *_) = target.prepare(tmp_path / "home")
    for new in (b"9" * 5000 + b"_x", b"x1," * 3, b"q" * 20_000, "\u0663_x".encode(), "²_x".encode(), "x_²".encode()):
        assert not target.takes(folder, whole.replace(b"x1", new, 1))
    # a landmark that is not seen may be anywhere
    assert target.takes(folder, re.sub(rb"walk,[^,]*,[^,]*,[^,]*,[^,]*", b"walk,1e308,0.5,0,0", whole))


@pytest.mark.parametrize("name", ["mediapipe npy", "mediapipe npz", "freemocap npy", "session", "sleap arrays"])
def test_nan_that_signals_is_missing_like_any(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    folder, _ = target.prepare(tmp_path / "home")
    signals = {"f8": 0x7FF4 << 48, "f4": 0x7FA0 << 16, "f2": 0x7D00}

    def marked(array: NDArray[Any]) -> NDArray[Any]:
        if array.dtype.kind == "f" and array.ndim > 2:
            array.ravel().view(f"u{array.itemsize}")[0] = signals[f"f{array.itemsize}"]
        return array

    if target.form == "npy":
        assert target.takes(folder, npy(marked(np.load(folder / target.file))))
    else:
        arrays = {key: marked(array) for key, array in load_arrays(folder / target.file).items()}
        takes = target.takes(folder, zipped({f"{key}.npy": npy(array) for key, array in arrays.items()}))
        assert takes == (name != "session")  # there a joint that is seen has finite pixels


def test_hdf5_behind_a_link_to_another_file(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="needs the extra `files`")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["group/x"] = np.zeros(3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["link"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "group")
    refused("one in another file", read_hdf5, tmp_path / "a.h5", ["link/x"], "anything")


def test_what_is_told_of_a_long_cell_is_short(tmp_path: Path) -> None:
    for name, old in (("csv poses", b"0.02"), ("trc", b"0.020000"), ("cameras metadata", b"0.0 0.0")):
        target = TARGETS[name]
        folder, (whole,) = target.prepare(tmp_path / name)
        assert old in whole
        assert not target.takes(folder, whole.replace(old, b"[" * 20_000, 1))
