"""Who is who across views: the people of several cameras' streams as persons of one world."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from edgelift.poses.cameras import Camera, project, triangulate
from edgelift.runtime.people import FORGET_S, remembered

Float64 = NDArray[np.float64]

# median over joints between a person and a view's detection: another person is beyond 0.1, but rays of two views alone
# may agree for two people who stand in one plane with the cameras
FIT_RAD = 0.04
MISFIT_RAD = 0.06  # beyond, a detection is taken from the person it belonged to
LEAST_JOINTS = 4  # fewer in common do not tell two people apart
MOST_STRANGERS = 32  # of one view who are compared with other views' in one moment
ALONE_S = 0.3  # who is seen by one view only, while others look, is a person after so long


@dataclass(frozen=True, eq=False)
class Look:
    """One view at one moment: ids of its people and their sights (people, joints, 3), rays and confidence."""

    ids: tuple[int, ...]
    sights: Float64


@dataclass(eq=False)
class WorldPerson:
    """A person of the world: which id they have in which view, and where they were last (joints, 3), world metres.

    proven: two views saw them together; before that they may be somebody whom another view knows.
    """

    number: int
    tracks: dict[int, int]
    at_s: float
    xyz: Float64 | None = None
    proven: bool = False


@dataclass(eq=False)
class Association:
    """Keeps persons through time. cameras: `ideal` ones, one a view."""

    cameras: Sequence[Camera]
    persons: list[WorldPerson] = field(default_factory=list)
    next_number: int = 0
    alone_since: dict[tuple[int, int], float] = field(default_factory=dict)
    unproven: dict[tuple[int, int], WorldPerson] = field(default_factory=dict)

    def assign(self, looks: dict[int, Look], at_s: float) -> list[tuple[WorldPerson, dict[int, int]]]:
        """Return the persons who are seen now, each with their row in the views that see them."""
        self.persons = [p for p in self.persons if at_s - p.at_s <= FORGET_S]
        most = remembered(max((len(look.ids) for look in looks.values()), default=0))
        if len(self.persons) > most:
            self.persons = sorted(self.persons, key=lambda p: p.at_s)[-most:]
        free = {(view, row) for view, look in looks.items() for row in range(len(look.ids))}
        rows: dict[WorldPerson, dict[int, int]] = {person: {} for person in self.persons}
        for person in self.persons:
            for view, track in person.tracks.items():
                if view in looks and track in looks[view].ids:
                    rows[person][view] = looks[view].ids.index(track)
                    free.discard((view, rows[person][view]))
        lone = {next(iter(own.items())): person for person, own in rows.items() if len(own) == 1 and not person.proven}
        self.unproven = lone if len(looks) > 1 else {}
        free.update(self.unproven)
        if free:
            self._place(rows, looks)
            self._join(rows, free, looks)
            self._pair(rows, free, looks, at_s)
        self._admit_lone(rows, free - self.unproven.keys(), looks, at_s)
        for person, own in rows.items():
            person.proven |= len(own) > 1
            person.tracks |= {view: looks[view].ids[row] for view, row in own.items()}
        return [(person, own) for person, own in rows.items() if own]

    def forget_view(self, view: int) -> None:
        """Nobody has an id in a view any more: its stream begins anew."""
        for person in self.persons:
            person.tracks.pop(view, None)
        self.alone_since = {key: since for key, since in self.alone_since.items() if key[0] != view}

    def judge(self, person: WorldPerson, residual: Float64, at_s: float, xyz: Float64) -> None:
        """Note where a person is now; residual (views, joints) radians: the view that fits worst loses them if it must.

        NaN where nothing was triangulated: that speaks against nobody.
        """
        person.at_s, person.xyz = at_s, xyz
        misfits = {view: _median(residual[view]) for view in person.tracks}
        misfits = {view: misfit for view, misfit in misfits.items() if MISFIT_RAD < misfit < np.inf}
        if misfits:
            del person.tracks[max(misfits, key=lambda view: misfits[view])]

    def _join(
        self, rows: dict[WorldPerson, dict[int, int]], free: set[tuple[int, int]], looks: dict[int, Look]
    ) -> None:
        """Give free detections to persons who fit them and are not seen by their view."""
        fits = []
        for person, own in rows.items():
            for view in {view for view, _ in free} - set(own):
                if person.xyz is not None:
                    there = project(person.xyz, self.cameras[view])
                    away = np.linalg.norm(there - looks[view].sights[..., :2], axis=-1)
                    fits += [(_median(away[row]), view, row, person) for v, row in free if v == view]
        for fit, view, row, person in sorted(fits, key=lambda item: item[0]):
            if fit <= FIT_RAD and (view, row) in free and view not in rows.get(person, (view,)):
                self._give((view, row), person, rows, free)

    def _give(
        self,
        seen: tuple[int, int],
        person: WorldPerson,
        rows: dict[WorldPerson, dict[int, int]],
        free: set[tuple[int, int]],
    ) -> None:
        """Make a detection a person's; whoever it was until now was nobody else."""
        owner = self.unproven.get(seen, person)
        if owner is not person:
            del rows[owner]
            self.persons.remove(owner)
        rows[person][seen[0]] = seen[1]
        for own in rows[person].items():
            self.unproven.pop(own, None)
            free.discard(own)

    def _pair(
        self, rows: dict[WorldPerson, dict[int, int]], free: set[tuple[int, int]], looks: dict[int, Look], at_s: float
    ) -> None:
        """Join free detections that agree to persons whom one view alone sees, then make persons of what is left."""
        lone = {next(iter(own.items())): person for person, own in rows.items() if len(own) == 1 and person.proven}
        fits = []
        for a, b, fit in self._disagreements(free | set(lone), looks):
            if fit <= FIT_RAD and {a, b} & free:
                fits.append((len({a, b} & free), fit, a, b))
        for were_free, _, a, b in sorted(fits):
            new = [seen for seen in (a, b) if seen in free]
            known = [lone[seen] for seen in (a, b) if seen in lone]
            if len(new) < were_free or any(len(rows[person]) > 1 for person in known):
                continue
            known += sorted((self.unproven[seen] for seen in new if seen in self.unproven), key=lambda p: p.number)
            person = known[0] if known else self._begin(at_s)
            rows.setdefault(person, {})
            for seen in new:
                self._give(seen, person, rows, free)
            found = {person: rows[person]}
            self._place(found, looks)
            self._join(found, free, looks)  # the other views see whoever was just found by two

    def _place(self, rows: dict[WorldPerson, dict[int, int]], looks: dict[int, Look]) -> None:
        """Put persons whom several views see where those see them now: what was before may be one view's guess."""
        for person, own in rows.items():
            if len(own) >= 2:
                views = list(own)
                sights = np.stack([looks[view].sights[own[view]] for view in views])
                person.xyz = triangulate(sights, [self.cameras[view] for view in views])[0]

    def _admit_lone(
        self, rows: dict[WorldPerson, dict[int, int]], free: set[tuple[int, int]], looks: dict[int, Look], at_s: float
    ) -> None:
        """Whoever nobody else sees: at once where one view looks at all, otherwise after a while."""
        waiting = {(view, looks[view].ids[row]): (view, row) for view, row in free}
        self.alone_since = {key: self.alone_since.get(key, at_s) for key in waiting}
        for key, (view, row) in waiting.items():
            if len(looks) == 1 or at_s - self.alone_since[key] >= ALONE_S:
                rows[self._begin(at_s)] = {view: row}
                del self.alone_since[key]

    def _disagreements(
        self, seen: set[tuple[int, int]], looks: dict[int, Look]
    ) -> Iterator[tuple[tuple[int, int], tuple[int, int], float]]:
        """Yield pairs of detections of two views and the median residual of each triangulated together, radians."""
        rows = {view: sorted(row for v, row in seen if v == view)[:MOST_STRANGERS] for view in sorted(looks)}
        for a, b in combinations(sorted(looks), 2):
            if rows[a] and rows[b]:
                sights_a, sights_b = looks[a].sights[rows[a]][:, None], looks[b].sights[rows[b]][None]
                both = np.stack(np.broadcast_arrays(sights_a, sights_b))  # (2, people of a, people of b, joints, 3)
                residual = triangulate(both, [self.cameras[a], self.cameras[b]])[1].max(0)
                for (j, m), (k, n) in product(enumerate(rows[a]), enumerate(rows[b])):
                    yield (a, m), (b, n), _median(residual[j, k])

    def _begin(self, at_s: float) -> WorldPerson:
        person = WorldPerson(self.next_number, {}, at_s)
        self.next_number += 1
        self.persons.append(person)
        return person


def _median(values: Float64) -> float:
    """Median of what is known; infinite where fewer than LEAST_JOINTS are."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) >= LEAST_JOINTS else np.inf
