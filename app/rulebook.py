"""Keeps the rules: profiles with the versions of single rules laid over them, and the shelves.

Rules come from profiles, which ship or are an operator's files, and from operators at the door.
A version once kept never changes. What is in use is the newest profile of each mechanism, with
the newest version of each rule in place of the profile's own; a retired rule is taken out. One
that cannot be used (unreadable to this version, unsound since the catalogue changed) is left out
alone, and shown with what is wrong.
"""

from __future__ import annotations

import asyncio
import enum
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path

from alerts.catalogue import Catalogue, Fault, nearest
from alerts.mechanisms import Profile, soundness
from alerts.rules import Rule
from alerts.signals import SeriesId
from app import documents, store, telemetry
from app.database import Connection, Database, DatabaseAway
from app.policy import Policy
from app.store.audit import SERVICE, Action, Actor, Entry
from app.store.rules import Kept
from app.store.shelves import Shelf

LONGEST_SHELF = timedelta(days=30)
"""Nothing is quietened for longer at a time: what nobody looks at again is lost."""

LOOK_SECONDS = 1.0
"""How often a process asks whether another has changed the rules: one number, by primary key."""

RuleKey = tuple[str, str]
"""Mechanism and rule id."""

_IN_A_RULE = re.compile(r"/rules/(\d+)(/.*)?")


class Refused(Exception):
    """A rule or shelf cannot be kept; ``faults`` point into what was sent."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f.detail for f in faults))
        self.faults = tuple(faults)


class NotNow(Exception):
    """What was asked is sound, and does not fit how things stand now; the message says why."""


class NotThere(Exception):
    """There is no such rule or shelf."""


class Status(enum.StrEnum):
    """How a rule stands: asked; to be asked from a day on; taken out; or not usable."""

    in_use = "in_use"
    scheduled = "scheduled"
    retired = "retired"
    refused = "refused"


@dataclass(frozen=True, slots=True)
class Clause:
    """One rule as the rulebook has it.

    ``content`` is what was written; ``rule`` is None where it cannot be read. ``kept`` is the
    version of an operator's that it comes from, None for a profile's own. ``newest`` is the
    highest version there is, in use or not yet; ``profile_version`` the rule's version in the
    profile, where the profile has it too. ``faults`` say what is wrong with a refused one.
    """

    mechanism: str
    id: str
    version: int
    newest: int
    status: Status
    content: Mapping[str, object]
    rule: Rule | None
    kept: Kept | None = None
    profile_version: int | None = None
    faults: tuple[Fault, ...] = ()

    @property
    def key(self) -> RuleKey:
        """Mechanism and rule id."""
        return self.mechanism, self.id


@dataclass(frozen=True, slots=True)
class Edition:
    """Everything in use after one change and before the next, on one day."""

    revision: int = -1
    day: date = date.min
    bases: Mapping[str, Profile] = field(default_factory=dict)
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    clauses: Mapping[RuleKey, Clause] = field(default_factory=dict)
    shelves: tuple[Shelf, ...] = ()

    @property
    def refused(self) -> dict[RuleKey, Clause]:
        """The rules that are left out because they cannot be used."""
        return {k: c for k, c in self.clauses.items() if c.status is Status.refused}


def overlay(
    bases: Mapping[str, Profile], kept: Iterable[Kept], catalogue: Catalogue, day: date
) -> tuple[dict[str, Profile], dict[RuleKey, Clause]]:
    """The profiles with every kept version laid over them, and how each rule stands.

    A version that takes effect on a later day leaves the one before it in use until then; one
    without any before it stands in its profile already, and judges nothing earlier by itself.

    Args:
        bases: profiles as they are shipped, by mechanism.
        kept: versions of rules, older ones of each first. Of mechanisms that have no profile
            they are left alone.
        catalogue: what rules may speak of.
        day: today.
    """
    versions: dict[RuleKey, list[Kept]] = {}
    for version in kept:
        versions.setdefault((version.mechanism, version.rule), []).append(version)
    profiles: dict[str, Profile] = {}
    clauses: dict[RuleKey, Clause] = {}
    for mechanism, base in bases.items():
        here = {rule.id: _shipped(mechanism, rule) for rule in base.rules}
        for (of, rule_id), found in versions.items():
            if of == mechanism:
                here[rule_id] = _clause(found, here.get(rule_id), day)
        profiles[mechanism] = _without_faulty(base, here, catalogue)
        clauses |= {clause.key: clause for clause in here.values()}
    return profiles, clauses


def _shipped(mechanism: str, rule: Rule) -> Clause:
    content = documents.plain(rule)
    assert isinstance(content, dict)
    version = rule.version
    return Clause(mechanism, rule.id, version, version, Status.in_use, content, rule, None, version)


def _clause(versions: Sequence[Kept], shipped: Clause | None, day: date) -> Clause:
    """How a rule stands whose kept versions are given, oldest first."""
    newest = max(versions[-1].version, shipped.version if shipped else 0)
    read = [_read(version) for version in versions]
    begun = [
        number
        for number, (version, rule, _) in enumerate(read)
        if version.retired or rule is None or _has_begun(rule, day)
    ]
    if not begun and shipped is not None:
        return replace(shipped, newest=newest)
    version, rule, faults = read[begun[-1]] if begun else read[-1]
    status = Status.in_use if begun else Status.scheduled
    if version.retired:
        status = Status.retired
    elif faults:
        status = Status.refused
    return Clause(
        version.mechanism,
        version.rule,
        version.version,
        newest,
        status,
        version.content,
        rule,
        version,
        shipped.version if shipped else None,
        () if version.retired else faults,
    )


def _read(version: Kept) -> tuple[Kept, Rule | None, tuple[Fault, ...]]:
    try:
        return version, documents.rule_from_document(version.content), ()
    except documents.RuleFaulty as error:
        return version, None, error.faults


def _has_begun(rule: Rule, day: date) -> bool:
    return rule.effective_from is None or rule.effective_from <= day


def _without_faulty(base: Profile, here: dict[str, Clause], catalogue: Catalogue) -> Profile:
    """The profile with the usable rules; each that is faulty among them is marked in ``here``.

    Leaving one out may leave another without what it counts on: so again, until all are sound.
    """
    while True:
        asked = [
            c for c in here.values() if c.rule and c.status in {Status.in_use, Status.scheduled}
        ]
        profile = replace(base, rules=tuple(c.rule for c in asked if c.rule))
        faulty = _faults_by_rule(profile, catalogue)
        if not faulty:
            return profile
        for number, faults in faulty.items():
            clause = asked[number]
            here[clause.id] = replace(clause, status=Status.refused, faults=faults)


def _faults_by_rule(profile: Profile, catalogue: Catalogue) -> dict[int, tuple[Fault, ...]]:
    """What is wrong with the rules of a profile, by their place; pointers into the rule."""
    found: dict[int, list[Fault]] = {}
    for fault in soundness.check(profile, catalogue):
        within = _IN_A_RULE.fullmatch(fault.pointer)
        if within is not None:
            number, pointer = within.groups(default="")
            found.setdefault(int(number), []).append(replace(fault, pointer=pointer))
    return {number: tuple(faults) for number, faults in found.items()}


async def load(connection: Connection, catalogue: Catalogue, now: datetime) -> Edition:
    """Everything in use now. Four queries.

    Of a mechanism whose newest profile this version cannot read, which is written down, the
    newest that it can read is in use.
    """
    revision = await store.audit.newest(connection)
    bases: dict[str, Profile] = {}
    for mechanism, newest in (await store.profiles.newest(connection)).items():
        kept: store.profiles.Kept | None = newest
        while kept is not None and mechanism not in bases:
            try:
                bases[mechanism] = documents.profile_from_document(kept.content)
            except documents.DocumentFaulty as error:
                telemetry.line(
                    "profile.unreadable", level="error", mechanism=mechanism, fault=str(error)
                )
                kept = await store.profiles.before(connection, mechanism, kept.version)
    versions = await store.rules.every(connection)
    shelves = await store.shelves.on(connection, now)
    profiles, clauses = overlay(bases, versions, catalogue, now.date())
    return Edition(revision, now.date(), bases, profiles, clauses, tuple(shelves))


async def add(
    connection: Connection,
    catalogue: Catalogue,
    mechanism: str,
    content: Mapping[str, object],
    *,
    actor: Actor,
    reason: str,
    now: datetime,
) -> Kept:
    """Keeps a new rule as its version 1. Waits for other changes; does not commit.

    Raises:
        Refused: there is no such mechanism, or the rule cannot be meant in it.
        NotNow: there is a rule of that id, in use or retired.
    """
    await store.audit.lock(connection)
    edition = await load(connection, catalogue, now)
    rule_id = content.get("id")
    if mechanism in edition.profiles and isinstance(rule_id, str):
        there = edition.clauses.get((mechanism, rule_id))
        if there is not None:
            raise NotNow(
                f"The rule {rule_id!r} is there already, in version {there.newest}, "
                f"{there.status.value.replace('_', ' ')}: change it with PUT."
            )
    return await _keep(connection, catalogue, edition, mechanism, content, None, actor, reason, now)


async def change(
    connection: Connection,
    catalogue: Catalogue,
    key: RuleKey,
    content: Mapping[str, object],
    *,
    expected: int,
    actor: Actor,
    reason: str,
    now: datetime,
) -> Kept:
    """Keeps the next version of a rule; of a retired one it brings it back. Does not commit.

    Raises:
        NotThere: there is no such rule.
        NotNow: its newest version is not the ``expected`` one: somebody else was first.
        Refused: the rule cannot be meant.
    """
    await store.audit.lock(connection)
    edition = await load(connection, catalogue, now)
    there = _expected(edition, key, expected)
    mechanism, rule_id = key
    if content.get("id", rule_id) != rule_id:
        detail = f"A rule keeps its id: {rule_id!r}. Another id is another rule: POST it."
        raise Refused([Fault("/rule/id", detail, (rule_id,))])
    content = {**content, "id": rule_id}
    return await _keep(
        connection, catalogue, edition, mechanism, content, there, actor, reason, now
    )


async def retire(
    connection: Connection,
    catalogue: Catalogue,
    key: RuleKey,
    *,
    expected: int,
    actor: Actor,
    reason: str,
    now: datetime,
) -> Kept:
    """Takes a rule out of use; it and its findings stay on record. Does not commit.

    Raises:
        NotThere: there is no such rule.
        NotNow: somebody else was first, it is retired already, or another rule counts on it.
    """
    await store.audit.lock(connection)
    edition = await load(connection, catalogue, now)
    there = _expected(edition, key, expected)
    if there.status is Status.retired:
        raise NotNow(f"The rule {there.id!r} is retired already.")
    profile = edition.profiles[there.mechanism]
    left = replace(profile, rules=tuple(r for r in profile.rules if r.id != there.id))
    for number, faults in _faults_by_rule(left, catalogue).items():
        other = left.rules[number].id
        raise NotNow(f"The rule {other!r} counts on {there.id!r}: {faults[0].detail}")
    return await _write(
        connection, there, dict(there.content), actor, reason, now, key, retired=True
    )


def _expected(edition: Edition, key: RuleKey, expected: int) -> Clause:
    there = edition.clauses.get(key)
    if there is None:
        raise NotThere(f"There is no rule {key[1]!r} under {key[0]!r}.")
    if there.newest != expected:
        raise NotNow(
            f"The rule {there.id!r} is in version {there.newest}, not {expected}: somebody "
            "changed it in the meantime. Read it again, then decide."
        )
    return there


async def _keep(
    connection: Connection,
    catalogue: Catalogue,
    edition: Edition,
    mechanism: str,
    content: Mapping[str, object],
    there: Clause | None,
    actor: Actor,
    reason: str,
    now: datetime,
) -> Kept:
    """Checks a rule within its mechanism, and keeps it as the next version."""
    profile = edition.profiles.get(mechanism)
    if profile is None:
        known = nearest(mechanism, edition.profiles)
        raise Refused([Fault("/mechanism", f"There is no mechanism {mechanism[:100]!r}.", known)])
    document = {**content, "version": there.newest + 1 if there else 1}
    try:
        rule = documents.rule_from_document(document)
    except documents.RuleFaulty as error:
        raise Refused([replace(f, pointer=f"/rule{f.pointer}") for f in error.faults]) from None
    others = [r for r in profile.rules if r.id != rule.id]
    faults = _faults_by_rule(replace(profile, rules=(*others, rule)), catalogue)
    own = [replace(f, pointer=f"/rule{f.pointer}") for f in faults.pop(len(others), ())]
    own += [
        Fault("/rule", f"The rule {others[number].id!r} would be wrong with it: {f.detail}")
        for number, found in faults.items()
        for f in found
    ]
    if own:
        raise Refused(own)
    key = (mechanism, rule.id)
    return await _write(connection, there, document, actor, reason, now, key, retired=False)


async def _write(
    connection: Connection,
    there: Clause | None,
    document: Mapping[str, object],
    actor: Actor,
    reason: str,
    now: datetime,
    key: RuleKey,
    *,
    retired: bool,
) -> Kept:
    """Writes a version and who made it."""
    version = there.newest + 1 if there else 1
    document = {**document, "version": version}
    kept = Kept(
        *key,
        version=version,
        content=document,
        sha256=documents.canonical_sha256(document),
        reason=reason,
        created_at=now,
        created_by=actor.partner,
        created_key=actor.key_id,
        retired=retired,
    )
    await store.rules.keep(connection, kept)
    action: Action = "rule.retired" if retired else "rule.changed" if there else "rule.made"
    gone = there is None or there.status is Status.retired
    before = None if there is None or gone else there.content
    after = None if retired else document
    subject = f"rules/{key[0]}/{key[1]}"
    await store.audit.record(connection, Entry(now, actor, action, subject, before, after, reason))
    return kept


async def shelve(
    connection: Connection,
    policy: Policy,
    *,
    mechanism: str,
    rule: str,
    series: SeriesId | None,
    until: datetime,
    reason: str,
    actor: Actor,
    now: datetime,
) -> Shelf:
    """Quietens a rule, a series, or a rule on a series, until an instant. Does not commit.

    Raises:
        Refused: there is nothing of that name, or the instant is past or too far.
    """
    faults: list[Fault] = []
    if bool(mechanism) != bool(rule):
        missing = "/rule" if mechanism else "/mechanism"
        faults.append(Fault(missing, "A rule is named by `mechanism` and `rule` together."))
    elif not rule and series is None:
        faults.append(Fault("", "Say what: a `mechanism` and `rule`, a `series_id`, or both."))
    elif rule and policy.rule(mechanism, rule) is None:
        known = (
            tuple(r.id for r in policy.profiles[mechanism].rules)
            if mechanism in policy.profiles
            else ()
        )
        detail = f"No rule {rule[:100]!r} is in use under {mechanism[:100]!r}."
        faults.append(Fault("/rule", detail, nearest(rule, known)))
    if series is not None and not await store.series.keys_of(connection, [series]):
        faults.append(Fault("/series_id", f"There is no series {series}."))
    if until <= now:
        faults.append(Fault("/until", "It must lie in the future."))
    elif until - now > LONGEST_SHELF:
        faults.append(
            Fault("/until", f"At most {LONGEST_SHELF.days} days ahead; shelve it again then.")
        )
    if faults:
        raise Refused(faults)
    made = await store.shelves.add(
        connection,
        mechanism=mechanism,
        rule=rule,
        series=series,
        reason=reason,
        created_by=actor.partner,
        until=until,
        now=now,
    )
    await _record_shelf(connection, "shelf.made", None, made, actor, reason, now)
    return made


async def end_shelf(
    connection: Connection, shelf_id: int, *, actor: Actor, reason: str, now: datetime
) -> Shelf:
    """Ends a shelf before its time. Does not commit.

    Raises:
        NotThere: there is no such shelf.
        NotNow: it is over already.
    """
    before = await store.shelves.find(connection, shelf_id)
    if before is None:
        raise NotThere(f"There is no shelf {shelf_id}.")
    ended = await store.shelves.end(
        connection, shelf_id, ended_by=actor.partner, reason=reason, now=now
    )
    if ended is None:
        raise NotNow(f"The shelf {shelf_id} is over already.")
    await _record_shelf(connection, "shelf.ended", before, ended, actor, reason, now)
    return ended


async def _record_shelf(
    connection: Connection,
    action: Action,
    before: Shelf | None,
    after: Shelf,
    actor: Actor,
    reason: str,
    now: datetime,
) -> None:
    told = [None if shelf is None else documents.plain(shelf) for shelf in (before, after)]
    was, became = (t if isinstance(t, dict) else None for t in told)
    entry = Entry(now, actor, action, f"shelves/{after.id}", was, became, reason)
    await store.audit.record(connection, entry)


class Rulebook:
    """Keeps one process's policy true to the database."""

    def __init__(self, database: Database, policy: Policy, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._policy = policy
        self._clock = clock
        self._one_at_a_time = asyncio.Lock()
        self.edition = Edition()

    async def keep_profiles(self, files: Iterable[Path]) -> None:
        """Keeps profiles as versions of their mechanisms; a faulty one stops only itself.

        In use is the newest version ever kept of every mechanism, whichever process brought it:
        they must all judge alike. A profile ends by its validity, not by taking its file away.
        """
        for file in files:
            try:
                document = documents.read_profile(file)
                async with self._database.begin() as connection:
                    now = self._clock()
                    if await store.profiles.keep(connection, document, now):
                        await self._record_profile(connection, document, now)
                        telemetry.line(
                            "profile.kept", mechanism=document.profile.id, file=file.name
                        )
            except (documents.DocumentFaulty, store.profiles.VersionRefused) as error:
                telemetry.line("profile.refused", level="error", file=file.name, fault=str(error))

    async def _record_profile(
        self, connection: Connection, document: documents.ProfileDocument, now: datetime
    ) -> None:
        profile = document.profile
        after = {"version": profile.version, "sha256": document.sha256.hex()}
        subject = f"mechanisms/{profile.id}"
        said = "A process brought this version of the profile."
        entry = Entry(now, SERVICE, "profile.kept", subject, None, after, said)
        await store.audit.record(connection, entry)

    async def renew(self) -> bool:
        """Takes up what has changed, by whomever; True when anything had.

        Raises:
            DatabaseAway: what was in use stays in use.
        """
        async with self._one_at_a_time:
            now = self._clock()
            async with self._database.begin() as connection:
                revision = await store.audit.newest(connection)
                if (revision, now.date()) == (self.edition.revision, self.edition.day):
                    return False
                edition = await load(connection, self._policy.catalogue, now)
            before, self.edition = self.edition, edition
            self._policy.renew(edition.profiles, edition.shelves)
            _tell(before, edition)
            return True

    async def run(self) -> None:
        """Looks every second, until cancelled; PostgreSQL may go away and come back."""
        away = False
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.renew()
                away = False
            except DatabaseAway as error:
                if not away:
                    telemetry.line("rules.not_renewed", level="warning", fault=str(error))
                away = True


def _tell(before: Edition, after: Edition) -> None:
    """Writes down what is new, and what is left out."""
    telemetry.rules_refused.set(len(after.refused))
    for key, clause in after.refused.items():
        was = before.clauses.get(key)
        if was is None or (was.status, was.version) != (clause.status, clause.version):
            telemetry.line(
                "rule.refused",
                level="error",
                mechanism=clause.mechanism,
                rule=clause.id,
                version=clause.version,
                fault="; ".join(f"{f.pointer}: {f.detail}" for f in clause.faults),
            )
    if before.revision < 0:
        return
    for mechanism, profile in after.bases.items():
        was_base = before.bases.get(mechanism)
        if was_base is None or was_base.version != profile.version:
            telemetry.line("profile.renewed", mechanism=mechanism, version=profile.version)
    for key, clause in after.clauses.items():
        old = before.clauses.get(key)
        if clause.kept and (
            old is None or (old.version, old.status) != (clause.version, clause.status)
        ):
            telemetry.line(
                "rule.renewed",
                mechanism=clause.mechanism,
                rule=clause.id,
                version=clause.version,
                status=clause.status.value,
            )
