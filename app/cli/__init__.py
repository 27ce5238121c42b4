"""The command line. Each command imports what it needs, so that ``forewarn --help`` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from app.cli import audit, backtest, bench, db, keys, rules, saying, signals, skill, torture

_OLDEST, _TOO_NEW = (3, 11), (3, 15)

app = typer.Typer(
    name="forewarn",
    help="Early warning of supply-chain disruptions: signals in, rules asked, alerts pushed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(keys.app, name="keys")
app.add_typer(signals.app, name="signals")
app.add_typer(rules.app, name="rules")
app.add_typer(audit.app, name="audit")
app.add_typer(db.app, name="db")
app.command()(backtest.backtest)
app.command()(skill.skill)
app.command()(bench.bench)
app.command()(torture.torture)
_profiles = typer.Typer(help="The profiles of mechanisms.", no_args_is_help=True)
app.add_typer(_profiles, name="profiles")


def main() -> None:
    """Runs the command line; errors that a person can mend are one sentence, and exit with 1."""
    if not _OLDEST <= sys.version_info[:2] < _TOO_NEW:
        have = f"{sys.version_info[0]}.{sys.version_info[1]}"
        saying.failed(f"Forewarn needs Python 3.11 to 3.14, and this is {have}.")
    with saying.sentences():
        app()


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    role: Annotated[
        Literal["all", "api", "worker"],
        typer.Option(help="api answers requests, worker sends and sweeps, all does both."),
    ] = "all",
) -> None:
    """Runs the service until Ctrl-C or SIGTERM.

    Without FOREWARN_DATABASE_URL it starts its own PostgreSQL in FOREWARN_DATA_DIR.
    """
    import gc
    import signal
    from contextlib import nullcontext

    from app import doorstep, embedded, settings

    chosen = settings.from_environment()
    listening = doorstep.listen(host, port)
    own = chosen.database_url is None
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # Until it serves and drains.
    gc.disable()  # Until it serves: what is being loaded stays, and looking for what does not took an eighth.
    # Loading the service takes as long as all else; PostgreSQL starts meanwhile.
    with embedded.started_beside(chosen.data_dir) if own else nullcontext():
        from app import access, main, telemetry

        telemetry.configure(chosen.log_level, chosen.log_format)

        def tell(address: str, key: access.IssuedKey | None) -> None:
            if key is not None:
                saying.out(f"The operator's key, shown only now: {key.token}")
            saying.out(f"Forewarn listens at {address} ({role}). Ctrl-C ends it.")

        saying.run(main.serve(chosen, listening=listening, role=role, tell=tell))


@app.command()
def migrate(
    down: Annotated[
        str | None,
        typer.Option(
            metavar="REVISION", help="Goes back to that revision, losing data; `base` is nothing."
        ),
    ] = None,
    as_json: saying.AsJson = False,
) -> None:
    """Brings the schema of the database to this version."""
    from app import premises, settings

    async def run() -> str | None:
        async with premises.database_of(settings.from_environment(), migrate=False) as (
            database,
            _,
        ):
            if down is None:
                await database.migrate()
            else:
                await database.migrate_down(down)
            return await database.revision()

    revision = saying.run(run())
    saying.report(
        {"revision": revision}, as_json, f"The schema is at revision {revision or 'none'}."
    )


@_profiles.command("check")
def check_profiles(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Profiles as YAML.")],
    as_json: saying.AsJson = False,
) -> None:
    """Checks profiles, and says what is wrong with file, line and column; exits with 1 if any is."""
    import dataclasses

    from app import documents

    faults = documents.check_files(files)
    count = f"{len(faults)} faults" if len(faults) != 1 else "1 fault"
    told = [str(fault) for fault in faults] + [f"{len(files)} checked, {count}."]
    saying.report([dataclasses.asdict(fault) for fault in faults], as_json, "\n".join(told))
    if faults:
        raise typer.Exit(1)


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Ends after the replay.")] = False,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    data_dir: Annotated[
        Path | None, typer.Option(help="Keeps the data here; otherwise it is removed at the end.")
    ] = None,
    as_json: saying.AsJson = False,
) -> None:
    """Replays real history through a real service to a real receiver, and shows what happens."""
    from app.demo import replay

    raise typer.Exit(
        replay.run(once=once, host=host, port=port, data_dir=data_dir, json_only=as_json)
    )
