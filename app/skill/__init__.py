"""How good the warnings are: shipped profiles scored on recorded history and on made-up series.

recorded   what is recorded: files of signals with their vintages, and what is known to have happened
made_up    series nobody recorded, by a stated recipe
methods    the same questions asked by textbook methods, and by an agreement with other constants
plays      one profile replayed over one history and scored; many at once, on all cores
choosing   leave one series out: constants chosen without the series they are then scored on
page       what was found, for people and as a document
"""

from __future__ import annotations

from dataclasses import dataclass

from alerts.mechanisms import Profile
from app import documents
from app.skill import choosing, methods, plays, recorded
from app.skill.choosing import Choice
from app.skill.plays import Play, Played, Tell

PROFILE = "supply-watch"


@dataclass(frozen=True, slots=True)
class Found:
    """Everything the page tells.

    ``final`` and ``as_of`` are the profile on recorded history by its last and by every vintage,
    ``vintages`` on each file's vintages for themselves. ``others`` holds the other methods on
    recorded history, ``made_up`` all of them on made-up series; both by title of the method, the
    profile first in ``made_up``.
    """

    profile: Profile
    final: Played
    as_of: Played
    vintages: dict[str, Played]
    others: dict[str, Played]
    made_up: dict[str, Played]
    choices: list[Choice]


def shipped() -> Profile:
    """The profile that is scored."""
    return documents.load_profile(documents.PROFILES_DIR / f"{PROFILE}.yaml")


def measure(workers: int, tell: Tell | None = None) -> Found:
    """Replays everything; the same whatever the number of processes. About a minute of two cores."""
    profile = shipped()
    others = methods.compared(profile)
    points = methods.grid(profile)
    asked = {
        "final": Play("recorded", profile),
        "as of": Play("recorded", profile, as_of=True),
        **{v: Play("recorded", profile, vintage=v) for v in recorded.VINTAGES},
        **{f"recorded {title}": Play("recorded", other) for title, other in others.items()},
        f"made up {profile.title}": Play("made up", profile),
        **{f"made up {title}": Play("made up", other) for title, other in others.items()},
        **{f"recorded {point}": Play("recorded", p) for point, p in points.items()},
        **{f"learnt from {point}": Play("learnt from", p) for point, p in points.items()},
    }
    found = dict(zip(asked, plays.play(list(asked.values()), workers, tell), strict=True))
    return Found(
        profile,
        found["final"],
        found["as of"],
        {vintage: found[vintage] for vintage in recorded.VINTAGES},
        {title: found[f"recorded {title}"] for title in others},
        {title: found[f"made up {title}"] for title in (profile.title, *others)},
        choosing.choices(
            profile, {p: (found[f"recorded {p}"], found[f"learnt from {p}"]) for p in points}
        ),
    )
