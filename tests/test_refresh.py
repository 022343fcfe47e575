"""The refresh loop from files to the next version, as a library, as a command, and as a watcher."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgelift.poses.errors import EdgeliftError
from edgelift.poses.sessions import Session, load_sessions, load_together, save_session, save_together
from edgelift.runtime.bundle import REPLAY, WATCH, Bundle, load_bundle
from edgelift.runtime.evaluate import evaluate
from edgelift.runtime.registries import LocalRegistry
from edgelift.trainer.adapt import AdaptSettings
from edgelift.trainer.data import fingerprint
from edgelift.trainer.deploy import checkpoint_of
from edgelift.trainer.reference import REPLAY_FRAMES, STRETCH_FRAMES, stretches
from edgelift.trainer.refresh import RefreshSettings, begin, learnt_from, refresh, split
from edgelift.trainer.validation import module_lift
from edgelift.trainer.watch import FIRST_RETRY_S, MOST_ATTEMPTS, Seen, State, WatchSettings, is_due, load_state, watch

from .lifters import somebody_new, walkers_bundle

QUICK = RefreshSettings(budget_s=600.0, adapt=AdaptSettings(steps=60, batch=64, learning_rate=3e-3))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return walkers_bundle(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def recorded() -> list[Session]:
    return somebody_new()


@pytest.fixture
def takes(recorded: list[Session], tmp_path: Path) -> Path:
    return saved(recorded, tmp_path / "takes")


def saved(sessions: list[Session], folder: Path) -> Path:
    for session in sessions:
        save_session(session, folder / f"{session.name}.npz")
    return folder


def exchanged(session: Session) -> Session:
    return replace(session, keypoints=session.keypoints[[1, 0, 2, 3]])


def edgelift(*arguments: object) -> tuple[int, dict[str, Any], str]:
    command = [sys.executable, "-m", "edgelift.cli", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}, done.stderr


def test_sessions_become_the_next_version_and_its_manifest_says_how(
    base: Bundle, takes: Path, recorded: list[Session], tmp_path: Path
) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    stages: list[str] = []
    result = refresh(base.path, [takes], registry, QUICK, stages.append)
    assert (result.version, result.reasons, registry.current()) == ("v0002", [], "v0002")
    assert stages == ["sessions", "adapt", "gate", "export", "engines", "publish"]
    assert set(result.seconds) == set(stages)
    new = load_bundle(registry.path / "v0002")
    assert new.manifest["parent"] == {"version": "v0001", "seal": base.manifest["seal"]}
    lineage = new.manifest["refresh"]
    assert [s["fingerprint"] for s in lineage["sessions"]] == [fingerprint([s], False) for s in load_sessions([takes])]
    assert lineage["gate"]["measures"]["reprojection_px"]["interval"][1] < 1
    assert lineage["forced"] is False
    assert learnt_from(new.manifest) == {s["fingerprint"] for s in lineage["sessions"]}
    # it is better where it works, and everything that the next refresh needs is there
    scores = [evaluate(module_lift(checkpoint_of(b).model()), recorded, b.input)["mpjpe_mm"] for b in (base, new)]
    assert scores[1] < 0.9 * scores[0]
    for name in ("reference.npz", WATCH, REPLAY):
        assert (new.path / name).read_bytes() == (base.path / name).read_bytes()
    assert not list(registry.path.glob(".work-*"))
    assert begin(registry.path, registry).manifest == new.manifest  # the next refresh begins with it


def test_what_cannot_be_believed_is_refused_unless_it_is_forced(
    base: Bundle, recorded: list[Session], tmp_path: Path
) -> None:
    wrong, registry = saved([exchanged(s) for s in recorded], tmp_path / "wrong"), LocalRegistry(tmp_path / "registry")
    result = refresh(base.path, [wrong], registry, QUICK)
    assert (result.version, result.adapted, registry.current()) == (None, None, "v0001")
    assert "exchanged" in result.reasons[0]
    assert result.kept is not None
    report = json.loads((Path(result.kept or "") / "report.json").read_text())
    assert report["reasons"] == result.reasons
    forced = refresh(
        registry.path, [wrong], registry, RefreshSettings(600.0, force=True, adapt=AdaptSettings(steps=10))
    )
    assert (forced.version, forced.forced, registry.current()) == ("v0002", True, "v0002")
    lineage = load_bundle(registry.path / "v0002").manifest["refresh"]
    assert lineage["forced"] is True
    assert lineage["reasons"] == forced.reasons


def test_a_candidate_that_loses_is_kept_with_its_report(base: Bundle, takes: Path, tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    hopeless = replace(QUICK, adapt=AdaptSettings(steps=10, learning_rate=1.0, checks=1))
    result = refresh(base.path, [takes], registry, hopeless)
    assert result.version is None
    assert result.kept == str(registry.path / "refused" / "0001")
    assert load_bundle(Path(result.kept or "") / "bundle").manifest["refresh"]["reasons"] == result.reasons
    assert (registry.current(), registry.versions()) == ("v0001", ["v0001"])


def test_a_registry_belongs_to_one_lifter(base: Bundle, takes: Path, bundle: Path, tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    registry.create(load_bundle(bundle))
    with pytest.raises(EdgeliftError, match="whose current version is not"):
        refresh(base.path, [takes], registry, QUICK)
    with pytest.raises(EdgeliftError, match="no registry"):
        refresh(tmp_path / "nothing", [takes], LocalRegistry(tmp_path / "nothing"), QUICK)


def test_the_end_of_every_session_judges(recorded: list[Session]) -> None:
    taught, held_out = split(recorded)
    for whole, before, after in zip(recorded, taught, held_out, strict=True):
        assert before.timestamps[0] == whole.timestamps[0]
        assert after.timestamps[-1] == whole.timestamps[-1]
        assert 0.5 <= after.timestamps[0] - before.timestamps[-1] < 0.6
    seconds = sum(np.ptp(s.timestamps) for s in held_out)
    assert 6.5 < seconds < 7.5  # as much as the gate needs, of 24 s
    long = [replace(recorded[0], timestamps=recorded[0].timestamps * 100)]
    assert np.ptp(split(long)[1][0].timestamps) == pytest.approx(0.2 * np.ptp(long[0].timestamps), rel=0.02)


def test_what_is_rehearsed_is_spread_over_the_training_and_holds_no_true_poses(
    base: Bundle, recorded: list[Session], tmp_path: Path
) -> None:
    replay = load_together(base.path / REPLAY)
    assert {s.poses_source for s in replay} == {"triangulation"}
    assert {s.subject for s in replay} == {"person1", "person2", "person3"}
    assert sum(len(s.timestamps) for s in replay) <= REPLAY_FRAMES
    parts = stretches([5000, 40, 7000])
    assert sum(p.stop - p.start for own in parts for p in own) == pytest.approx(REPLAY_FRAMES, rel=0.03)
    assert max(p.stop - p.start for own in parts for p in own) == STRETCH_FRAMES
    assert stretches([100, 40]) == [[slice(0, 100)], [slice(0, 40)]]
    save_together(recorded, tmp_path / "both.npz")
    for session, again in zip(recorded, load_together(tmp_path / "both.npz"), strict=True):
        np.testing.assert_array_equal(session.keypoints, again.keypoints)
        assert session.camera_names == again.camera_names


# --- the commands ---


def test_the_commands_tell_machines_what_they_did(base: Bundle, takes: Path, tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    code, told, said = edgelift("adapt", base.path, takes, "-o", registry, "--budget", "5m", "--steps", "60")
    assert code == 0, said
    assert set(told) == {
        "registry", "sessions", "base", "version", "forced", "kept", "reasons", "findings", "gate", "adaptation",
        "learnt_cameras", "additions", "seconds",
    }  # fmt: skip
    assert said.strip().splitlines()[-1].startswith("published: v0002, made from v0001")
    code, told, _ = edgelift("registry", "list", registry)
    assert [(v["name"], v["state"], v["parent"]) for v in told["versions"]] == [
        ("v0001", "earlier", None), ("v0002", "current", "v0001"),
    ]  # fmt: skip
    code, told, _ = edgelift("registry", "show", registry)
    assert told["version"] == "v0002"
    assert [event["what"] for event in told["history"]] == ["published"]
    picture = tmp_path / "diff.png"
    code, told, _ = edgelift("registry", "diff", registry, "v0001", "v0002", takes, "-o", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert told["sessions"]["mean_mm"][1] < told["sessions"]["mean_mm"][0]
    assert len(told["reference"]["joints_mm"][0]) == len(told["joints"]) == 14
    code, told, _ = edgelift("registry", "rollback", registry)
    assert (told["from"], told["to"], registry.current()) == ("v0002", "v0001", "v0001")
    code, told, _ = edgelift("registry", "prune", registry, "--keep", "1")
    assert told["removed"] == []  # the newest one, and the current one


def test_a_refusal_has_an_exit_code_of_its_own(base: Bundle, recorded: list[Session], tmp_path: Path) -> None:
    wrong = saved([exchanged(s) for s in recorded[:1]], tmp_path / "wrong")
    code, told, said = edgelift("adapt", base.path, wrong, "-o", tmp_path / "registry")
    assert (code, told["version"]) == (3, None)
    assert "refused, v0001 stays current" in said.strip().splitlines()[-1]
    code, _, said = edgelift("adapt", base.path, wrong, "-o", tmp_path / "registry", "--budget", "soon")
    assert (code, "--budget" in said) == (2, True)


# --- the watcher ---


def once(folder: Path, registry: Path, *more: str) -> State:
    settings = WatchSettings(once=True, adapt=("--budget", "5m", "--steps", "60", *more))
    return watch(folder, registry, settings, lambda: False, lambda line: None)


def test_a_watcher_publishes_what_is_good_and_says_what_is_not(
    base: Bundle, recorded: list[Session], tmp_path: Path
) -> None:
    registry, folder = LocalRegistry(tmp_path / "registry"), saved(recorded, tmp_path / "takes")
    registry.create(base)
    save_session(exchanged(recorded[0]), folder / "wrong.npz")
    (folder / "half.npz").write_bytes((folder / "wrong.npz").read_bytes()[:999])
    state = once(folder, registry.path)
    seen = {s.file: s for s in state.sessions.values()}
    assert {name: s.state for name, s in seen.items()} == {
        f"{recorded[0].name}.npz": "published", f"{recorded[1].name}.npz": "published",
        "wrong.npz": "refused", "half.npz": "failed",
    }  # fmt: skip
    assert "exchanged" in seen["wrong.npz"].why
    assert [run["how"] for run in state.runs] == ["refused", "published"]
    assert registry.current() == "v0002"
    page = (registry.path / "watch.html").read_text()
    assert "published" in page
    assert "half.npz" in page
    again = once(folder, registry.path)  # nothing is done twice, whoever asks
    assert (len(again.runs), again.sessions) == (2, state.sessions)
    assert load_state(registry.path).sessions == state.sessions


def test_one_watcher_at_a_time_and_a_state_that_is_one(base: Bundle, tmp_path: Path) -> None:
    registry, folder = LocalRegistry(tmp_path / "registry"), tmp_path / "takes"
    registry.create(base)
    with pytest.raises(EdgeliftError, match="no directory"):
        once(folder, registry.path)
    folder.mkdir()
    stop_after = time.monotonic() + 0.5

    def stopped() -> bool:
        if time.monotonic() < stop_after - 0.25:
            with pytest.raises(EdgeliftError, match="runs already"):
                once(folder, registry.path)
        return time.monotonic() > stop_after

    watch(folder, registry.path, WatchSettings(every_s=0.1), stopped, lambda line: None)
    (registry.path / "watch.json").write_text("{")
    with pytest.raises(EdgeliftError, match="unreadable state"):
        once(folder, registry.path)


def test_failures_are_tried_again_later_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgelift.trainer.watch import failed

    now = [1000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    state, waits = State(), []
    for _ in range(MOST_ATTEMPTS):
        failed(state, "key", Path("take.npz"), "killed")
        waits.append(state.sessions["key"].retry_at_s - now[0])
    assert waits == [FIRST_RETRY_S * 2**n for n in range(MOST_ATTEMPTS)]
    assert state.sessions["key"].state == "given_up"
    waiting = Seen("take.npz", "failed", retry_at_s=now[0] + 60)
    assert not is_due(waiting)
    now[0] += 61
    assert is_due(waiting)
    now[0] -= 10 * 365 * 86400  # a clock that was set back does not keep it waiting for ten years
    assert is_due(waiting)
