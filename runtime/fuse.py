"""Several calibrated cameras live: streams aligned by their timestamps, one world pose a person."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, camera_to_world, rays
from edgelift.poses.errors import EdgeliftError
from edgelift.poses.rigs import plain_name
from edgelift.poses.timeline import MAX_GAP_S
from edgelift.runtime.association import Association, Look, WorldPerson
from edgelift.runtime.counts import Live
from edgelift.runtime.frames import Frame, LiftedFrame, Seen
from edgelift.runtime.fusion import complete, ideal, triangulate_robustly
from edgelift.runtime.lifter import Lifter, PoseStream, Prepared, StreamSettings
from edgelift.runtime.live import Order, check_size
from edgelift.runtime.smoothing import OneEuro

SYNC_S = 0.004  # frames of two cameras this close are of one moment: a hand at 3 m/s moves 12 mm
PATIENCE_S = 0.05  # a camera whose next frame is late by so much is not waited for
LONGEST_INTERVAL_S = 0.5  # between two frames of a camera that is still waited for
HELD = 512  # frames of a view that may wait for the other views: half a second of the fastest camera
ASTRAY_S = 2.0  # a view this far from the leading one has another clock, or comes too late to be waited for

Sights = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Held:
    """A frame that waits for those of the other views."""

    frame: Frame
    prepared: Prepared
    sights: Sights

    @property
    def at_s(self) -> float:
        return self.prepared.at_s


@dataclass(eq=False)
class _View:
    camera: Camera
    stream: PoseStream
    held: deque[_Held] = field(default_factory=lambda: deque(maxlen=HELD))
    heard_ns: int | None = None
    interval_s: float = MAX_GAP_S  # between its last two frames

    def heard_by(self, now_ns: int) -> bool:
        """Whether it was heard of, and its next frame is not late by more than one waits."""
        return self.heard_ns is not None and now_ns - self.heard_ns <= (PATIENCE_S + self.interval_s) * 1e9


class Fuse:
    """The pipeline of `--fuse`: what several views see of a moment becomes one frame, in the world.

    A moment is a frame of the leading view, the first of the rig that is heard of; the others take part with their
    frame of that time, interpolated where they have none within SYNC_S. Whose next frame is late is waited for
    PATIENCE_S: of the frames' own time if they are all `recorded`, and may come at once.
    """

    look_again_s = PATIENCE_S / 2

    def __init__(
        self,
        lifter: Lifter,
        rig: Sequence[Camera],
        settings: StreamSettings,
        live: Live,
        every: bool,
        echo: bool,
        recorded: bool = False,
    ) -> None:
        if len(rig) < 2:
            raise EdgeliftError("--fuse", f"{len(rig)} camera", "two or more", "Leave --fuse out, or name a whole rig.")
        self.lifter, self.settings, self.live, self.every, self.echo = lifter, settings, live, every, echo
        self.recorded = recorded
        self.order = Order(live)
        self.views = [_View(camera, lifter.stream(camera, camera.size, settings)) for camera in rig]
        self.places = {plain_name(view.camera.name): place for place, view in enumerate(self.views)}
        self.ideal = [ideal(camera) for camera in rig]
        self.association = Association(self.ideal)
        self.filters: dict[int, OneEuro] = {}
        self.started_ns: int | None = None
        self.astray: set[int] = set()
        self.led_by: _View | None = None
        self.last_s = -np.inf
        self.count = 0

    def feed(self, frames: Sequence[Frame]) -> Iterator[LiftedFrame]:
        """Take frames; yield the moments that are complete: all of them if `every`, else the newest."""
        for frame in frames:
            try:
                self._hold(frame)
            except EdgeliftError as error:
                self.live.counts.failed += 1
                self.live.complaints.add(f"stream {frame.stream}: not taken", f"frame {frame.seq}: {error}")
        yield from self._lifted(self._complete_moments(self._now_ns()))

    def rest(self) -> Iterator[LiftedFrame]:
        """Yield the moments that wait for views of which nothing will come, of one view after the other."""
        for place, view in enumerate(self.views):
            if place not in self.astray:
                yield from self._lifted(self._moments(view, np.inf))

    def _lifted(self, moments: list[float]) -> Iterator[LiftedFrame]:
        if not self.every and len(moments) > 1:
            self.live.dropped_by_stream["fused"] = self.live.dropped_by_stream.get("fused", 0) + len(moments) - 1
            self.live.counts.dropped += len(moments) - 1
            moments = moments[-1:]
        for at_s in moments:
            try:
                yield self._fuse(at_s)
            except EdgeliftError as error:
                self.live.counts.failed += 1
                self.live.complaints.add("moments: not fused", f"at {at_s:.3f} s: {error}")

    def take_up(self, lifter: Lifter) -> None:
        """Views keep their past where the new lifter is fed as the old one was."""
        alike, self.lifter = lifter.input == self.lifter.input, lifter
        for place, view in enumerate(self.views):
            if alike:
                view.stream.lifter = lifter
            else:
                self._forget(place)

    # moments

    def _hold(self, frame: Frame) -> None:
        place = self.places.get(plain_name(frame.stream))
        if place is None:
            self.live.counts.unplaced += 1
            self.live.complaints.add(
                f"stream {frame.stream}: no camera of that name",
                f"the rig has {', '.join(v.camera.name for v in self.views)}",
            )
            return
        view = self.views[place]
        check_size(frame, view.camera.size)
        said = self.order.check(frame, view.camera.name)
        if said == "stale":
            return
        if said == "new" and view.held:
            self._forget(place)
            if view is self.led_by and frame.t_ns / 1e9 >= self.last_s - ASTRAY_S:  # by more, all begins anew
                self.last_s = -np.inf
                self.filters.clear()
        heard_ns = frame.t_ns if self.recorded else frame.arrived_ns
        if self.started_ns is None:
            self.started_ns = heard_ns
        prepared = view.stream.prepare(frame.t_ns / 1e9, frame.keypoints, frame.skeleton, frame.ids)
        if view.held:
            view.interval_s = min(prepared.at_s - view.held[-1].at_s, LONGEST_INTERVAL_S)
        self.live.counts.swapped += sum("swapped" in flags for flags in prepared.flags)
        view.held.append(_Held(frame, prepared, self._sights(view, prepared)))
        view.heard_ns = heard_ns

    def _now_ns(self) -> int:
        if not self.recorded:
            return time.perf_counter_ns()
        return max((view.heard_ns for view in self.views if view.heard_ns is not None), default=0)

    def _begin_anew(self, leader: _View) -> None:
        """Moments go on from an earlier time: its clock jumped back, or another view leads. Little of before fits."""
        for place, view in enumerate(self.views):
            if not view.held or abs(view.held[-1].at_s - leader.held[-1].at_s) > ASTRAY_S:
                self._forget(place)
        self.association = Association(self.ideal)
        self.filters.clear()
        self.last_s, self.started_ns = -np.inf, leader.heard_ns

    def _forget(self, place: int) -> None:
        """Begin a view anew: whom it saw has other ids from now on."""
        view = self.views[place]
        view.held.clear()
        view.stream = self.lifter.stream(view.camera, view.camera.size, self.settings)
        self.association.forget_view(place)

    def _sights(self, view: _View, prepared: Prepared) -> Sights:
        """Rays and confidence (people, joints, 3); what the lifter is fed is undistorted already, if it takes rays."""
        if self.lifter.input.camera_input == "rays":
            fed = prepared.windows[:, -1].astype(np.float64)
            focal, centre = view.camera.K[[0, 1], [0, 1]], view.camera.K[:2, 2]
            return np.concatenate([(fed[..., :2] - centre) / focal, fed[..., 2:]], -1)
        seen = rays(prepared.keypoints[..., :2], view.camera)
        return np.concatenate([seen, prepared.keypoints[..., 2:]], -1)

    def _complete_moments(self, now_ns: int) -> list[float]:
        """The leading view's times for which every view that is waited for has what it will have."""
        leader = self._leader(now_ns)
        if leader is None:
            return []
        newest_s = leader.held[-1].at_s
        if newest_s < self.last_s - ASTRAY_S:
            self._begin_anew(leader)
        ready_s = np.inf
        self.astray.clear()
        for place, view in enumerate(self.views):
            behind_s = newest_s - view.held[-1].at_s if view.held else 0.0
            if abs(behind_s) > ASTRAY_S + view.interval_s:
                self.astray.add(place)
                self._tell_astray(view, behind_s, now_ns)
            elif self._awaited(view, now_ns):
                ready_s = min(ready_s, view.held[-1].at_s if view.held else -np.inf)
        return self._moments(leader, ready_s)

    def _moments(self, leader: _View, ready_s: float) -> list[float]:
        """A view's times after the last moment, up to one for which all is there."""
        after_s = self._after_s(leader)
        moments = [held.at_s for held in leader.held if after_s < held.at_s <= ready_s + SYNC_S]
        if moments:
            self.led_by = leader
        return moments

    def _tell_astray(self, view: _View, behind_s: float, now_ns: int) -> None:
        if view.heard_by(now_ns):
            where = "behind" if behind_s > 0 else "ahead of"
            told = f"{abs(behind_s):.3f} s {where} the leading view, by its clock or by its delay; it takes no part"
            self.live.complaints.add(f"view {view.camera.name}", told)

    def _awaited(self, view: _View, now_ns: int) -> bool:
        """Who never was heard of is waited for at the start alone."""
        assert self.started_ns is not None
        return view.heard_by(now_ns) or now_ns - self.started_ns <= PATIENCE_S * 1e9

    def _after_s(self, leader: _View) -> float:
        """When a view's next moment may be: another one's frame a little later may be of the moment that was."""
        return self.last_s if leader is self.led_by else self.last_s + SYNC_S

    def _leader(self, now_ns: int) -> _View | None:
        """The first view that is heard of now; if none is, the last leader or else the first that has a moment left."""
        holding = [view for view in self.views if view.held]
        heard = (view for view in holding if view.heard_by(now_ns))
        waiting = sorted(holding, key=lambda view: view is not self.led_by)
        left = (view for view in waiting if view.held[-1].at_s > self._after_s(view))
        return next(heard, None) or next(left, None)

    def _at(self, view: _View, at_s: float) -> tuple[_Held, tuple[int, ...], Sights] | None:
        """What a view sees at a moment: its nearest frame, ids and sights (people, joints, 3); None for nothing."""
        if not view.held:
            return None
        nearest = min(view.held, key=lambda held: abs(held.at_s - at_s))
        if abs(nearest.at_s - at_s) <= SYNC_S:
            return nearest, nearest.prepared.ids, nearest.sights
        before = [held for held in view.held if held.at_s < at_s]
        after = [held for held in view.held if held.at_s > at_s]
        if not before or not after or after[0].at_s - before[-1].at_s > MAX_GAP_S:
            return None
        return nearest, *_between(before[-1], after[0], at_s)

    # people

    def _fuse(self, at_s: float) -> LiftedFrame:
        began_ns = time.perf_counter_ns()
        self.last_s = at_s
        for view in self.views:
            while len(view.held) > 1 and view.held[1].at_s <= at_s:  # the last one before may be interpolated from
                view.held.popleft()
        views = [(place, view) for place, view in enumerate(self.views) if place not in self.astray]
        seen = {place: found for place, view in views if (found := self._at(view, at_s)) is not None}
        looks = {place: Look(ids, sights) for place, (_, ids, sights) in seen.items()}
        people = self.association.assign(looks, at_s)
        sights = np.full((len(self.views), len(people), len(self.lifter.skeleton.joints), 3), np.nan)
        for k, (_, rows) in enumerate(people):
            for place, row in rows.items():
                sights[place, k] = looks[place].sights[row]
        fused = triangulate_robustly(sights, self.ideal)
        xyz, ready_ns, done_ns = self._completed(fused.xyz, people, sights, {p: s[0] for p, s in seen.items()})
        for k, (person, _) in enumerate(people):
            self.association.judge(person, fused.residual[:, k], at_s, xyz[k])
        if self.settings.smooth is not None:
            xyz = self._smoothed(at_s, people, xyz)
        frames = {place: held for place, (held, _, _) in seen.items()}
        return self._message(at_s, frames, people, xyz, sights, fused.seen_by, (began_ns, ready_ns, done_ns))

    def _completed(
        self,
        xyz: Sights,
        people: list[tuple[WorldPerson, dict[int, int]]],
        sights: Sights,
        frames: dict[int, _Held],
    ) -> tuple[Sights, int, int]:
        """Fill what was not triangulated by the lifter, all people and views in one batch; when it began and ended."""
        lacking = [k for k in range(len(people)) if not np.isfinite(xyz[k]).all()]
        wanted = [(k, place) for k in lacking for place in people[k][1]]
        wanted = [(k, p) for k, p in wanted if self._row(people[k][0], frames[p], p) is not None]
        ready_ns = time.perf_counter_ns()
        if not wanted:
            if self.lifter.on_lift is not None:
                self._lift_one(people, frames)
            return xyz, ready_ns, ready_ns
        windows = [frames[p].prepared.windows[self._row(people[k][0], frames[p], p)] for k, p in wanted]
        rows = np.concatenate([self.views[p].stream.intrinsics for _, p in wanted])
        lifted = self.lifter.lift(np.stack(windows), rows)
        done_ns = time.perf_counter_ns()
        world = [camera_to_world(pose, self.views[p].camera) for pose, (_, p) in zip(lifted, wanted, strict=True)]
        for k in lacking:
            own = [n for n, (person, _) in enumerate(wanted) if person == k]
            if own:
                places = [wanted[n][1] for n in own]
                cameras = [self.ideal[p] for p in places]
                xyz[k] = complete(
                    xyz[k], np.stack([world[n] for n in own]), sights[places, k], cameras, self.lifter.skeleton
                )
        return xyz, ready_ns, done_ns

    def _lift_one(self, people: list[tuple[WorldPerson, dict[int, int]]], frames: dict[int, _Held]) -> None:
        """Lift somebody for whoever compares lifters: where all is triangulated there would be nothing to compare."""
        for person, seen in people:
            for place in seen:
                row = self._row(person, frames[place], place)
                if row is not None:
                    window = frames[place].prepared.windows[row : row + 1]
                    self.lifter.lift(window, self.views[place].stream.intrinsics)
                    return

    def _row(self, person: WorldPerson, held: _Held, place: int) -> int | None:
        """A person's row in a frame; None where an interpolated sight has them and the nearest frame has not."""
        track = person.tracks.get(place)
        return held.prepared.ids.index(track) if track in held.prepared.ids else None

    def _smoothed(self, at_s: float, people: list[tuple[WorldPerson, dict[int, int]]], xyz: Sights) -> Sights:
        assert self.settings.smooth is not None
        for k, (person, _) in enumerate(people):
            own = self.filters.setdefault(person.number, OneEuro(self.settings.smooth, xyz.shape[1]))
            xyz[k] = own(at_s, xyz[k])
        known = {person.number for person in self.association.persons}
        self.filters = {number: own for number, own in self.filters.items() if number in known}
        return xyz

    def _message(
        self,
        at_s: float,
        frames: dict[int, _Held],
        people: list[tuple[WorldPerson, dict[int, int]]],
        xyz: Sights,
        sights: Sights,
        seen_by: NDArray[np.int64],
        ns: tuple[int, int, int],
    ) -> LiftedFrame:
        whole = [k for k in range(len(people)) if np.isfinite(xyz[k]).all()]
        began, ready, done = ns
        arrived = max(held.frame.arrived_ns for held in frames.values())
        seen = tuple(self._seen(place, held, people) for place, held in frames.items())
        self.count += 1
        leader = min(frames.values(), key=lambda held: abs(held.at_s - at_s)).frame
        confidence = np.nan_to_num(sights[..., 2])[:, whole].max(0) if whole else np.empty((0, xyz.shape[1]))
        return LiftedFrame(
            stream="fused", seq=self.count - 1, t_ns=leader.t_ns, clock=leader.clock,
            skeleton=self.lifter.skeleton, frame="world", provider=self.lifter.backend.provider,
            lifter=self.lifter.name, ids=tuple(people[k][0].number for k in whole), xyz=xyz[whole].astype(np.float32),
            conf=confidence.astype(np.float32), flags=tuple(self._flags(people[k], frames) for k in whole),
            latency_ms={
                "wait": (began - arrived) / 1e6, "prepare": (ready - began) / 1e6, "backend": (done - ready) / 1e6,
                "total": (time.perf_counter_ns() - arrived) / 1e6,
            },
            dropped=self.live.dropped_by_stream.get("fused", 0), views=seen, seen_by=seen_by[whole], echo=self.echo,
        )  # fmt: skip

    def _seen(self, place: int, held: _Held, people: list[tuple[WorldPerson, dict[int, int]]]) -> Seen:
        own = {person.tracks.get(place): person.number for person, rows in people if place in rows}
        rows = [row for row, track in enumerate(held.prepared.ids) if track in own]
        numbers = tuple(own[held.prepared.ids[row]] for row in rows)
        f = held.frame
        return Seen(
            self.views[place].camera.name,
            f.seq,
            f.t_ns,
            self.views[place].camera.size,
            numbers,
            held.prepared.keypoints[rows],
        )

    def _flags(self, seen: tuple[WorldPerson, dict[int, int]], frames: dict[int, _Held]) -> tuple[str, ...]:
        person, rows = seen
        found = set()
        for place in rows:
            row = self._row(person, frames[place], place)
            found |= set(frames[place].prepared.flags[row]) if row is not None else set()
        return tuple(sorted(found))


def _between(before: _Held, after: _Held, at_s: float) -> tuple[tuple[int, ...], Sights]:
    """Whom two frames have in common, interpolated in time; a joint that either lacks is missing."""
    along = (at_s - before.at_s) / (after.at_s - before.at_s)
    ids = tuple(number for number in before.prepared.ids if number in after.prepared.ids)
    low = before.sights[[before.prepared.ids.index(number) for number in ids]]
    high = after.sights[[after.prepared.ids.index(number) for number in ids]]
    confidence = np.minimum(low[..., 2:], high[..., 2:])
    return ids, np.concatenate([low[..., :2] * (1 - along) + high[..., :2] * along, confidence], -1)
