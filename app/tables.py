"""The tables as SQLAlchemy sees them; ``migrations`` makes them, a test holds the two together."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP

metadata = MetaData()

_instant = TIMESTAMP(timezone=True)
_empty = text("''")
_zero = text("0")

partners = Table(
    "partners",
    metadata,
    Column("id", Integer, Identity(), primary_key=True),
    Column("name", Text, nullable=False),
    Column("party", Text, nullable=False, server_default=_empty),
    Column("created_at", _instant, nullable=False),
    UniqueConstraint("name"),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("partner_id", ForeignKey("partners.id"), nullable=False),
    Column("role", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("secret_sha256", LargeBinary, nullable=False),
    Column("created_at", _instant, nullable=False),
    Column("expires_at", _instant),
    Column("revoked_at", _instant),
    Column("last_used_at", _instant),
    Index("keys_partner_id", "partner_id"),
)

lanes = Table(
    "lanes",
    metadata,
    Column("lane", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False, server_default=text("0")),
)

series = Table(
    "series",
    metadata,
    Column("series_id", BigInteger, primary_key=True),
    Column("sector", Text, nullable=False),
    Column("indicator", Text, nullable=False),
    Column("good", Text, nullable=False, server_default=_empty),
    Column("place", Text, nullable=False, server_default=_empty),
    Column("exercise", Text, nullable=False, server_default=_empty),
    Column("created_at", _instant, nullable=False),
    UniqueConstraint("sector", "indicator", "good", "place", "exercise"),
    Index("series_subject", "sector", "good", "place", "exercise"),
)

series_state = Table(
    "series_state",
    metadata,
    Column("series_id", BigInteger, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False, server_default=_zero),
    Column("last_observed_at", _instant),
    Column("last_value", Double),
    Column("last_received_at", _instant),
    Column("observations", BigInteger, nullable=False, server_default=_zero),
    Column("ring", LargeBinary, nullable=False, server_default=_empty),
    Column("last_valued_at", _instant),
)

signals = Table(
    "signals",
    metadata,
    Column("series_id", BigInteger, primary_key=True),
    Column("observed_at", _instant, primary_key=True),
    Column("partner_id", Integer, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("value", Double),
    Column("received_at", _instant, nullable=False),
    Column("detail", Text),
)

retired = Table(
    "retired",
    metadata,
    Column("month", _instant, primary_key=True),
    Column("sector", Text, primary_key=True),
    Column("tlp", Text, primary_key=True),
    Column("signals", BigInteger, nullable=False),
    Column("whole", Boolean, nullable=False),
    Column("insertions", BigInteger),
    Column("retired_at", _instant, nullable=False),
)

findings = Table(
    "findings",
    metadata,
    Column("series_id", BigInteger, primary_key=True),
    Column("mechanism", Text, primary_key=True),
    Column("rule", Text, primary_key=True),
    Column("rule_version", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("severity", SmallInteger, nullable=False),
    Column("onset", _instant),
    Column("since", _instant),
    Column("observed_at", _instant),
    Column("value", Double),
    Column("compared", Double),
    Column("baseline", Double),
    Column("raise_run", Integer, nullable=False),
    Column("clear_run", Integer, nullable=False),
    Column("ok_since", _instant),
    Column("ok_run", Integer, nullable=False),
    Column("reason", Text, nullable=False, server_default=_empty),
    Column("alert_id", BigInteger),
    Column("measures", Text),
    Index("findings_alert_id", "alert_id", postgresql_where=text("alert_id IS NOT NULL")),
)

alert_signals = Table(
    "alert_signals",
    metadata,
    Column("series_id", BigInteger, primary_key=True),
    Column("observed_at", _instant, primary_key=True),
    Column("alert_id", BigInteger, primary_key=True),
    Column("number", Integer, primary_key=True),
    Index("alert_signals_alert_id", "alert_id"),
)

profiles = Table(
    "profiles",
    metadata,
    Column("mechanism", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("document", JSONB, nullable=False),
    Column("loaded_at", _instant, nullable=False),
)

rules = Table(
    "rules",
    metadata,
    Column("mechanism", Text, primary_key=True),
    Column("rule", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("document", JSONB, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("retired", Boolean, nullable=False, server_default=text("false")),
    Column("reason", Text, nullable=False),
    Column("created_at", _instant, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_key", Text, nullable=False),
)

shelves = Table(
    "shelves",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("mechanism", Text, nullable=False, server_default=_empty),
    Column("rule", Text, nullable=False, server_default=_empty),
    Column("series_id", BigInteger),
    Column("reason", Text, nullable=False),
    Column("created_at", _instant, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("until", _instant, nullable=False),
    Column("ended_at", _instant),
    Column("ended_by", Text, nullable=False, server_default=_empty),
    Column("ended_reason", Text, nullable=False, server_default=_empty),
    CheckConstraint("rule <> '' OR series_id IS NOT NULL"),
    CheckConstraint("(mechanism = '') = (rule = '')"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("at", _instant, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("partner", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("before", Text),
    Column("after", Text),
    Column("reason", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Index("audit_subject", "subject", "id"),
)

alert_numbers = Table(
    "alert_numbers",
    metadata,
    Column("prefix", Text, primary_key=True),
    Column("year", Integer, primary_key=True, autoincrement=False),
    Column("last", Integer, nullable=False),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("ref", Text, nullable=False),
    Column("mechanism", Text, nullable=False),
    Column("profile_version", Integer, nullable=False),
    Column("sector", Text, nullable=False),
    Column("good", Text, nullable=False, server_default=_empty),
    Column("place", Text, nullable=False, server_default=_empty),
    Column("exercise", Text, nullable=False, server_default=_empty),
    Column("level", SmallInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("severity", SmallInteger, nullable=False),
    Column("title", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("validated", Boolean, nullable=False, server_default=text("false")),
    Column("tlp", Text, nullable=False),
    Column("opened_at", _instant, nullable=False),
    Column("recorded_at", _instant, nullable=False),
    Column("updated_at", _instant, nullable=False),
    Column("eased_at", _instant),
    Column("resolved_at", _instant),
    Column("recommendation", JSONB),
    Column("awaiting", JSONB, nullable=False, server_default=text("'[]'")),
    Column("number", Integer, nullable=False),
    Column("folded", Boolean, nullable=False, server_default=text("false")),
    ForeignKeyConstraint(
        ["mechanism", "profile_version"], ["profiles.mechanism", "profiles.version"]
    ),
    UniqueConstraint("ref"),
    Index(
        "alerts_one_open",
        "mechanism",
        "sector",
        "good",
        "place",
        "exercise",
        unique=True,
        postgresql_where=text("state = 'open'"),
    ),
    Index("alerts_updated", text("updated_at DESC"), text("id DESC")),
    Index(
        "alerts_in_need",
        text("(exercise <> '')"),
        text("level DESC"),
        text("severity DESC"),
        text(
            "array_position(ARRAY['monitoring', 'early_warning', 'disruption', 'crisis'], "
            "recommendation ->> 'level') DESC NULLS LAST"
        ),
        text("updated_at DESC"),
        "id",
        postgresql_where=text("state = 'open'"),
    ),
    Index(
        "alerts_open_updated",
        text("updated_at DESC"),
        text("id DESC"),
        postgresql_where=text("state = 'open'"),
    ),
)

alert_ends = Table(
    "alert_ends",
    metadata,
    Column("mechanism", Text, primary_key=True),
    Column("sector", Text, primary_key=True),
    Column("good", Text, primary_key=True),
    Column("place", Text, primary_key=True),
    Column("exercise", Text, primary_key=True),
    Column("ended_at", _instant, nullable=False),
)

transitions = Table(
    "transitions",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("alert_id", ForeignKey("alerts.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("type", Text, nullable=False),
    Column("level_from", SmallInteger, nullable=False),
    Column("level_to", SmallInteger, nullable=False),
    Column("severity_from", SmallInteger, nullable=False),
    Column("severity_to", SmallInteger, nullable=False),
    Column("at", _instant, nullable=False),
    Column("recorded_at", _instant, nullable=False),
    Column("decided_by", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("explanation", JSONB, nullable=False),
    Column("data", Text, nullable=False),
    UniqueConstraint("alert_id", "number"),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("partner_id", ForeignKey("partners.id"), nullable=False),
    Column("url", Text, nullable=False),
    Column("format", Text, nullable=False),
    Column("filter", JSONB, nullable=False),
    Column("description", Text, nullable=False, server_default=_empty),
    Column("status", Text, nullable=False),
    Column("created_at", _instant, nullable=False),
    Column("verified_at", _instant),
    Column("owed_since", _instant),
    Column("suspended_at", _instant),
    Column("reason", Text, nullable=False, server_default=_empty),
    Column("last_sequence", BigInteger, nullable=False, server_default=_zero),
    Column("removed_at", _instant),
    Column("format_version", SmallInteger, nullable=False, server_default=text("1")),
    Column("ordering", Text, nullable=False, server_default=text("'strict'")),
    Column("per_second", Double),
    Column("ready_at", _instant),
    Column("not_before", _instant),
    Column("at_once", SmallInteger),
    Column("health", JSONB, nullable=False, server_default=text("'{}'")),
    Column("untold", JSONB),
    Index("subscriptions_partner_id", "partner_id", "id"),
    Index("subscriptions_ready", "ready_at", "id", postgresql_where=text("ready_at IS NOT NULL")),
    Index("subscriptions_untold", "id", postgresql_where=text("untold IS NOT NULL")),
)

subscription_secrets = Table(
    "subscription_secrets",
    metadata,
    Column("subscription_id", ForeignKey("subscriptions.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", _instant, nullable=False),
    Column("retires_at", _instant),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("subscription_id", ForeignKey("subscriptions.id"), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("transition_id", ForeignKey("transitions.id")),
    Column("alert_id", BigInteger),
    Column("data", Text),
    Column("state", Text, nullable=False, server_default=text("'owed'")),
    Column("attempts", Integer, nullable=False, server_default=_zero),
    Column("forgiven", Integer, nullable=False, server_default=_zero),
    Column("created_at", _instant, nullable=False),
    Column("due_at", _instant),
    Column("lease_until", _instant),
    Column("fence", BigInteger, nullable=False, server_default=_zero),
    Column("finished_at", _instant),
    Column("lane", SmallInteger, nullable=False, server_default=_zero),
    Column("blocked", Boolean, nullable=False, server_default=text("false")),
    Column("throttled", SmallInteger, nullable=False, server_default=_zero),
    Column("throttled_since", _instant),
    UniqueConstraint("subscription_id", "sequence"),
    CheckConstraint("data IS NOT NULL OR transition_id IS NOT NULL"),
    Index(
        "deliveries_due",
        "subscription_id",
        "lane",
        "due_at",
        "id",
        postgresql_where=text("state = 'owed' AND NOT blocked"),
    ),
    Index("deliveries_finished", "finished_at", postgresql_where=text("state <> 'owed'")),
    Index(
        "deliveries_in_order",
        "subscription_id",
        "alert_id",
        "sequence",
        postgresql_where=text("state = 'owed' AND finished_at IS NULL AND alert_id IS NOT NULL"),
    ),
    Index("deliveries_alert_id", "alert_id", postgresql_where=text("alert_id IS NOT NULL")),
)

attempts = Table(
    "attempts",
    metadata,
    Column("delivery_id", ForeignKey("deliveries.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", _instant, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("status", Integer),
    Column("error", Text, nullable=False, server_default=_empty),
    Column("milliseconds", Double, nullable=False),
    Column("excerpt", Text, nullable=False, server_default=_empty),
    Column("sent_after", Double),
    Column("answered_after", Double),
    Column("answer_headers", Text, nullable=False, server_default=_empty),
    Index("attempts_at", "at"),
)

recoveries = Table(
    "recoveries",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("subscription_id", ForeignKey("subscriptions.id"), nullable=False),
    Column("first_sequence", BigInteger, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    Column("states", ARRAY(Text), nullable=False),
    Column("next_sequence", BigInteger, nullable=False),
    Column("redelivered", Integer, nullable=False, server_default=_zero),
    Column("created_at", _instant, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("finished_at", _instant),
    Column("stopped_by", Text, nullable=False, server_default=_empty),
    Index("recoveries_subscription_id", "subscription_id", "id"),
    Index("recoveries_open", "id", postgresql_where=text("finished_at IS NULL")),
)
