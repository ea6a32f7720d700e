"""Fixed points followed from checkpoint to checkpoint: their births, losses and changes of stability."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, NamedTuple

import scipy
import torch
from torch import Tensor

from separatrix.analysis.fixed.fixed_points import fixed_points
from separatrix.analysis.fixed.result import FixedPoints
from separatrix.core.errors import InputError
from separatrix.core.result import Result, Status
from separatrix.core.system import System
from separatrix.core.wording import counted, plain

MOST_EVENTS = 12  # events listed in the summary
FLIPPED = 3.0  # factor on the distance to a point of another index, because only a bifurcation changes an index


class Event(NamedTuple):
    """A change of fixed points between two checkpoints.

    Args:
        change: "birth", "loss" or "stability".
        likely: the likely bifurcation: "fold", "pitchfork", "transcritical" (two points exchange their stability), "flip",
            "Neimark–Sacker", "Hopf", "real eigenvalue" (any other crossing of 1); "" if unknown.
        before, after: labels of the two checkpoints.
        tracks: the tracks involved.
        verdict: the event in words.
    """

    change: str
    likely: str
    before: float
    after: float
    tracks: tuple[int, ...]
    verdict: str


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Tracks(Result):
    """Fixed points followed over checkpoints; a track is one fixed point for as long as it exists.

    At every checkpoint, the search starts from the usual guesses and from the points of both neighbouring checkpoints, so a point
    that exists on both sides is not missed in between. The points of two checkpoints are paired so that the sum of the distances
    from the predicted positions is minimal (Hungarian method); points farther apart than the gate are different points. The
    prediction is a linear extrapolation, or the last position if that predicted better before. A candidate with another index,
    sign det(1 − DF), counts as three times as far away.

    Args:
        labels: (checkpoint), epochs.
        points: (checkpoint, track, dim); NaN where the point does not exist.
        residuals: (checkpoint, track), ‖F(x) − x‖∞, or the largest component of a flow's field.
        multipliers: (checkpoint, track, dim), complex; NaN where the point does not exist.
        rates: (checkpoint, track, dim), nats per unit time, the leading one first.
        kind: (checkpoint, track), index into `kinds`; −1 where the point does not exist.
        degree: (checkpoint), Σ sign det(1 − DF) over the points. A check: it is constant unless a point was missed or came from
            far outside.
        kinds: names of the kinds.
        changes, likely, verdicts: of each event, see `Event`.
        between: (event, 2), indices of the checkpoints before and after.
        event_tracks: (event, 3), the tracks involved, padded with −1.
    """

    labels: Tensor
    points: Tensor
    residuals: Tensor
    multipliers: Tensor
    rates: Tensor
    kind: Tensor
    degree: Tensor
    kinds: tuple[str, ...]
    changes: tuple[str, ...]
    likely: tuple[str, ...]
    verdicts: tuple[str, ...]
    between: Tensor
    event_tracks: Tensor

    drawn_by: ClassVar[str] = "separatrix.plot.along:tracks_figure"
    layout: ClassVar[dict[str, str]] = {
        "labels": "batch",
        "points": "batch track dim",
        "residuals": "batch track",
        "multipliers": "batch track dim",
        "rates": "batch track dim",
        "kind": "batch track",
        "degree": "batch",
        "between": "event side",
        "event_tracks": "event part",
    }
    units: ClassVar[dict[str, str]] = {"rates": "nats per unit time", "points": "the state's unit"}

    @property
    def alive(self) -> Tensor:
        """Whether each point exists, (checkpoint, track), bool."""
        return self.kind >= 0

    @property
    def stable(self) -> Tensor:
        """Whether each point exists and attracts, (checkpoint, track), bool."""
        return self.alive & (self.rates[..., 0] < 0)

    @property
    def events(self) -> list[Event]:
        """The events in order."""
        rows = zip(self.changes, self.likely, self.between.tolist(), self.event_tracks.tolist(), self.verdicts, strict=True)
        label = self.labels.tolist()
        return [
            Event(change, likely, label[before], label[after], tuple(track for track in tracks if track >= 0), verdict)
            for change, likely, (before, after), tracks, verdict in rows
        ]

    def summary(self) -> str:
        """The number of points followed, and their events."""
        tracks, now = self.points.shape[1], int(self.alive[-1].sum())
        lines = [f"{counted(tracks, 'fixed point')} followed, {now} at the end; {counted(len(self.verdicts), 'event')}"]
        degrees = self.degree[self.codes == Status.OK]
        if len(degrees) and bool((degrees != degrees[0]).any()):
            lines.append("the degree changes: a point was missed or came from far outside")
        more = len(self.verdicts) - MOST_EVENTS
        return "\n".join([*lines, *self.verdicts[:MOST_EVENTS], *([f"… and {counted(more, 'more event')}"] if more > 0 else [])])


def follow(labels: Tensor, systems: Sequence[System | None], results: Sequence[Result | None], gate: float) -> Tracks:
    """The tracks of the fixed points of all checkpoints; None stands for a checkpoint without a result, which is skipped."""
    found = {i: result for i, result in enumerate(results) if isinstance(result, FixedPoints)}
    checkpoints = list(found)
    sizes = {found[i].points.shape[-1] for i in checkpoints}
    if len(sizes) > 1:
        raise InputError(
            f"the checkpoints have states of {' and '.join(map(str, sorted(sizes)))} numbers.\n"
            "Pass checkpoints of one network: fixed points are followed in one state space."
        )
    for order in (checkpoints, checkpoints[::-1]):
        for neighbour, i in pairwise(order):
            found[i] = _sought_from(systems[i], found[i], found[neighbour].points)
    rows = _rows(labels, {i: found[i] for i in checkpoints}, gate, _unit([found[i] for i in checkpoints]))
    count = 1 + max((track for row in rows.values() for track in row), default=-1)
    tracks = _table(labels, found, rows, count)
    first = systems[checkpoints[0]]
    events = _events(tracks, checkpoints, first is not None and first.continuous, labels)
    parts = torch.full((len(events), 3), -1, dtype=torch.int64)
    for row, event in zip(parts, events, strict=True):
        row[: len(event.tracks)] = torch.tensor(event.tracks[:3])
    place = {float(label): i for i, label in enumerate(labels)}
    sides = [[place[event.before], place[event.after]] for event in events]
    return Tracks(
        **tracks,
        changes=tuple(event.change for event in events),
        likely=tuple(event.likely for event in events),
        verdicts=tuple(event.verdict for event in events),
        between=torch.tensor(sides, dtype=torch.int64).reshape(-1, 2),
        event_tracks=parts,
        settings={**found[checkpoints[0]].settings, "gate": gate},
    )


def _sought_from(system: System, found: FixedPoints, guesses: Tensor) -> FixedPoints:
    """The points found, together with those found from the points of a neighbouring checkpoint."""
    if not len(guesses):
        return found
    options = {name: found.settings[name] for name in ("n", "period", "tol", "max_steps", "distinct")}
    guesses = torch.cat([found.points, guesses.to(found.points)])
    return replace(fixed_points(system, guesses, scale=found.settings["unit"], **options), size=found.size)


def _unit(found: list[FixedPoints]) -> Tensor:
    """Root mean square of the largest point of all, or of the guesses if that is larger."""
    units = [torch.as_tensor(result.settings["unit"]).to(result.points) for result in found]
    unit = torch.stack([each.expand(found[0].points.shape[-1]) for each in units]).amax(0)
    sizes = [float((result.points / unit).square().mean(-1).max()) ** 0.5 for result in found if len(result.points)]
    return unit * (max([*sizes, *(result.size for result in found)]) or 1.0)


def _rows(labels: Tensor, found: dict[int, FixedPoints], gate: float, unit: Tensor) -> dict[int, list[int]]:
    """For each checkpoint, the track of each of its points."""
    paths: list[_Path] = []
    rows: dict[int, list[int]] = {}
    alive: list[int] = []
    for i, result in found.items():
        label, index = float(labels[i]), _index(result.multipliers).tolist()
        matched = _matched([paths[track] for track in alive], label, result.points, index, gate, unit)
        row = [-1] * len(result.points)
        for place, point in matched.items():
            row[point] = alive[place]
        for point, track in enumerate(row):
            if track < 0:
                row[point] = len(paths)
                paths.append(_Path([], [], []))
            paths[row[point]].add(label, result.points[point], index[point])
        rows[i], alive = row, sorted(row)
    return rows


class _Path(NamedTuple):
    """The positions of a point so far."""

    labels: list[float]
    points: list[Tensor]
    indices: list[int]

    def add(self, label: float, point: Tensor, index: int) -> None:
        self.labels.append(label)
        self.points.append(point)
        self.indices.append(index)

    def expected(self, label: float) -> Tensor:
        """Linear extrapolation from the last two positions, or the last position if that predicted better before."""
        if len(self.points) == 1:
            return self.points[-1]
        if len(self.points) > 2:
            last, straight = self.points[-1], self._onwards(-2, self.labels[-1])
            if (last - straight).norm() > (last - self.points[-2]).norm():
                return last
        return self._onwards(-1, label)

    def _onwards(self, i: int, label: float) -> Tensor:
        """The extrapolation of the line through positions i − 1 and i."""
        (a, b), (x, y) = (self.labels[i - 1], self.labels[i]), (self.points[i - 1], self.points[i])
        return y + (y - x) * (label - b) / (b - a)


def _matched(paths: list[_Path], label: float, points: Tensor, index: list[int], gate: float, unit: Tensor) -> dict[int, int]:
    """Number of a path ↦ number of its next point, with the smallest total distance and none beyond the gate."""
    if not paths or not len(points):
        return {}
    places = torch.stack([path.expected(label) for path in paths])
    distance = ((places[:, None] - points[None]) / unit).square().mean(-1).sqrt()
    before = torch.tensor([path.indices[-1] for path in paths])
    cost = distance.cpu().where(before[:, None] == torch.tensor(index), FLIPPED * distance.cpu())
    pairs = zip(*scipy.optimize.linear_sum_assignment(cost.clamp(max=gate).numpy()), strict=True)
    return {int(i): int(j) for i, j in pairs if cost[i, j] < gate}


def _table(labels: Tensor, found: dict[int, FixedPoints], rows: dict[int, list[int]], count: int) -> dict[str, Tensor | tuple]:
    """The tensors of `Tracks`, filled where a point exists."""
    first = next(iter(found.values()))
    shape = (len(labels), count)
    table = {
        name: torch.full((*shape, *getattr(first, name).shape[1:]), torch.nan, dtype=getattr(first, name).dtype)
        for name in ("points", "residuals", "multipliers", "rates")
    }
    kinds = tuple(dict.fromkeys(kind for result in found.values() for kind in result.kind))
    kind = torch.full(shape, -1, dtype=torch.int64)
    degree = torch.zeros(len(labels), dtype=torch.int64)
    codes = torch.full((len(labels),), int(Status.DIVERGED), dtype=torch.int8)
    for i, result in found.items():
        for name, values in table.items():
            values[i, rows[i]] = getattr(result, name).cpu()
        kind[i, rows[i]] = torch.tensor([kinds.index(one) for one in result.kind], dtype=torch.int64)
        degree[i] = int(_index(result.multipliers).sum())
        codes[i] = int(Status.OK)
    return {"labels": labels, "codes": codes, **table, "kind": kind, "degree": degree, "kinds": kinds}


def _index(multipliers: Tensor) -> Tensor:
    """Sign det(1 − DF) of each point, which is constant under continuous change until a multiplier passes 1."""
    return (1 - multipliers).prod(-1).real.sign().long()


def _events(tracks: dict, checkpoints: list[int], flow: bool, labels: Tensor) -> list[Event]:
    """The events between successive checkpoints with a result."""
    events = []
    for before, after in pairwise(checkpoints):
        step = _Step(tracks, before, after, flow, float(labels[before]), float(labels[after]))
        events.extend(step.events())
    return events


class _Step(NamedTuple):
    """Two neighbouring checkpoints of a table of tracks."""

    tracks: dict
    before: int
    after: int
    flow: bool
    start: float
    end: float

    def events(self) -> list[Event]:
        """Paired births and losses first, then single ones, then changes of stability."""
        was, now = self.tracks["kind"][self.before] >= 0, self.tracks["kind"][self.after] >= 0
        changed = [
            t for t in (was & now).nonzero()[:, 0].tolist() if self._unstable(t, self.before) != self._unstable(t, self.after)
        ]
        events = []
        for change, side, only_here in (("birth", self.after, now & ~was), ("loss", self.before, was & ~now)):
            unpaired = only_here.nonzero()[:, 0].tolist()
            for track in list(changed):
                pair = self._fork(track, unpaired, side)
                if pair:
                    events.append(self._event(change, "pitchfork", (track, *pair)))
                    unpaired = [t for t in unpaired if t not in pair]
                    changed.remove(track)
            while (pair := self._opposite(unpaired, side)) is not None:
                events.append(self._event(change, "fold", pair))
                unpaired = [t for t in unpaired if t not in pair]
            events.extend(self._event(change, "", (track,)) for track in unpaired)
        while (pair := self._exchange(changed)) is not None:
            events.append(self._event("stability", "transcritical", pair))
            changed = [t for t in changed if t not in pair]
        return events + [self._event("stability", self._crossing(track), (track,)) for track in changed]

    def _unstable(self, track: int, side: int) -> int:
        return int((self.tracks["rates"][side, track] > 0).sum())

    def _index_of(self, track: int, side: int) -> int:
        return int(_index(self.tracks["multipliers"][side, track]))

    def _fork(self, track: int, unpaired: list[int], side: int) -> tuple[int, int] | None:
        """Two points on either side of one whose index flipped, both with the index that it has at the other checkpoint."""
        here, there = (self._index_of(track, i) for i in (side, self.before + self.after - side))
        arms = [t for t in unpaired if self._index_of(t, side) == there]
        if here == there or len(arms) < 2:
            return None
        points = self.tracks["points"][side]
        middle = points[track]
        pairs = [(a, b) for k, a in enumerate(arms) for b in arms[k + 1 :]]
        bent = [float((points[a] + points[b] - 2 * middle).norm() / (points[a] - points[b]).norm()) for a, b in pairs]
        best = min(range(len(pairs)), key=bent.__getitem__)
        return pairs[best] if bent[best] < 1 else None

    def _exchange(self, changed: list[int]) -> tuple[int, int] | None:
        """The two nearest points whose indices flipped in opposite directions."""
        flipped = [t for t in changed if self._crossing(t) == "real eigenvalue"]
        return self._opposite(flipped, self.after) if len(flipped) > 1 else None

    def _opposite(self, candidates: list[int], side: int) -> tuple[int, int] | None:
        """The two nearest points of opposite index."""
        points = self.tracks["points"][side]
        index = {track: self._index_of(track, side) for track in candidates}
        pairs = [(a, b) for k, a in enumerate(candidates) for b in candidates[k + 1 :] if index[a] * index[b] < 0]
        return min(pairs, key=lambda pair: float((points[pair[0]] - points[pair[1]]).norm()), default=None)

    def _crossing(self, track: int) -> str:
        """The kind of eigenvalue that crossed the border of stability."""
        if self._index_of(track, self.before) != self._index_of(track, self.after):
            return "real eigenvalue"
        if abs(self._unstable(track, self.before) - self._unstable(track, self.after)) % 2:
            return "flip"
        return "Hopf" if self.flow else "Neimark–Sacker"

    def _event(self, change: str, likely: str, tracks: tuple[int, ...]) -> Event:
        side = self.before if change == "loss" else self.after
        verb = {"birth": "born", "loss": "lost"}.get(change, "")
        if change == "stability":
            turned = " and ".join(self._turned(track) for track in tracks)
            verdict = f"{turned}: {'a real eigenvalue crosses' if likely == 'real eigenvalue' else f'a likely {likely}'}"
        elif likely == "pitchfork":
            verdict = f"points {self._named(tracks[1:], side)} are {verb} and {self._turned(tracks[0])}: a likely pitchfork"
        elif likely == "fold":
            nearest = min(float((1 - self.tracks["multipliers"][side, t]).abs().min()) for t in tracks)
            names = self._named(tracks, side)
            verdict = f"points {names} are {verb} together: a likely fold (a multiplier is {plain(nearest)} from 1)"
        else:
            verdict = f"point {self._named(tracks, side)} is {verb} alone"
        return Event(change, likely, self.start, self.end, tracks, f"{plain(self.start)} → {plain(self.end)}: {verdict}")

    def _kind(self, track: int, side: int) -> str:
        return self.tracks["kinds"][int(self.tracks["kind"][side, track])]

    def _named(self, tracks: tuple[int, ...], side: int) -> str:
        return " and ".join(f"{track} ({self._kind(track, side)})" for track in tracks)

    def _turned(self, track: int) -> str:
        return f"point {track} changes from {self._kind(track, self.before)} to {self._kind(track, self.after)}"
