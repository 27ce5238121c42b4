"""The house: what the words say is what is there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import alerts
import app
from app import telemetry
from app.api.problems import PROBLEMS
from app.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def _rooms(package: Path) -> list[str]:
    return sorted(
        entry.stem
        for entry in package.iterdir()
        if (entry.suffix == ".py" and entry.stem != "__init__") or (entry / "__init__.py").exists()
    )


def _cells(page: Path, column: int = 0) -> list[list[str]]:
    rows = [
        line.strip("|").split(" | ") for line in page.read_text().splitlines() if line[:1] == "|"
    ]
    return [[cell.strip(" |`") for cell in row] for row in rows]


@pytest.mark.parametrize("package", [alerts, app], ids=["alerts", "app"])
def test_every_room_is_on_the_map_and_every_place_on_the_map_is_a_room(package: object) -> None:
    folder = Path(str(package.__file__)).parent  # type: ignore[attr-defined]
    rooms = _rooms(folder)
    drawn = re.findall(
        r"^    ([a-z_, ]+?)(?:  | verbs|$)", str(package.__doc__), flags=re.MULTILINE
    )
    on_the_map = {room.strip() for line in drawn for room in line.split(",")}
    assert on_the_map == set(rooms)


def test_every_room_is_in_the_architecture() -> None:
    named = {row[0] for row in _cells(DOCS / "architecture.md")}
    for package in (alerts, app):
        assert set(_rooms(Path(str(package.__file__)).parent)) <= named, package.__name__


def test_every_setting_is_described_as_in_the_code() -> None:
    described = {row[0]: row for row in _cells(DOCS / "settings.md") if row[0].startswith(PREFIX)}
    fields = {f"{PREFIX}{name.upper()}": field for name, field in Settings.model_fields.items()}
    assert list(described) == list(fields)
    for name, field in fields.items():
        default = field.default
        shown = (
            "none"
            if default in (None, ())
            else ",".join(f"{part:g}" for part in default)
            if isinstance(default, tuple)
            else str(default).lower()
            if isinstance(default, bool)
            else str(default)
        )
        assert described[name][1] == shown, name
        assert described[name][2] == str(field.description).strip("`"), name


def test_every_problem_is_described_as_in_the_code() -> None:
    described = {row[0]: row[1:] for row in _cells(DOCS / "errors.md") if row[0] in PROBLEMS}
    expected = {
        slug: [str(kind.status), kind.title, kind.advice] for slug, kind in PROBLEMS.items()
    }
    assert list(described) == list(expected)
    for slug, told in expected.items():
        assert described[slug] == [cell.strip("`") for cell in told], slug


def test_every_event_type_is_described_as_in_the_code() -> None:
    from app.api.webhooks import EVENTS

    described = {row[0]: row[1:] for row in _cells(DOCS / "webhooks.md") if row[0] in EVENTS}
    assert list(described) == list(EVENTS)
    for kind, event in EVENTS.items():
        assert described[kind] == [f"{event.summary}. {event.description}", event.since], kind


def test_the_examples_of_formats_are_what_is_promised_and_every_format_has_one() -> None:
    from alerts.payloads import Format

    promised = {
        path.read_text().rstrip("\n") for path in (ROOT / "tests" / "golden" / "formats").iterdir()
    }
    page = (DOCS / "formats.md").read_text()
    shown = {part.split("\n", 1)[0]: part for part in page.split("\n## ")[1:]}
    for format in Format:
        examples = re.findall(
            r"^```\n(.*?)\n```$", shown[format.value], flags=re.MULTILINE | re.DOTALL
        )
        assert examples, format
        assert set(examples) <= promised, format


def test_every_metric_is_described_as_in_the_code() -> None:
    told = [row for row in _cells(DOCS / "metrics.md") if row[0].startswith("forewarn_")]
    families = [f for f in telemetry.REGISTRY.collect() if f.name.startswith("forewarn_")]
    expected = [
        [f"{f.name}_total" if f.type == "counter" else f.name, f.type, f.documentation]
        for f in families
    ]
    described = [row for row in told if len(row) == 3 and row[1] in {f.type for f in families}]
    assert described == expected


def test_every_command_and_option_is_described() -> None:
    import typer

    from app.cli import app as command_line

    def walk(command: object, path: str) -> list[tuple[str, list[str]]]:
        if children := getattr(command, "commands", None):
            return [
                found for name, child in children.items() for found in walk(child, f"{path} {name}")
            ]
        options = [
            option
            for parameter in command.params  # type: ignore[attr-defined]
            for option in parameter.opts
            if option.startswith("--") and option != "--help"
        ]
        return [(path, options)]

    page = (DOCS / "cli.md").read_text()
    sections = {part.split("`", 1)[0]: part for part in page.split("\n## `")[1:]}
    commands = walk(typer.main.get_command(command_line), "forewarn")
    assert sorted(sections) == sorted(path for path, _ in commands)
    for path, options in commands:
        assert [option for option in options if option not in sections[path]] == [], path


def test_the_help_of_the_command_line_is_quick_because_it_imports_little() -> None:
    heavy = ("sqlalchemy", "fastapi", "httpx", "asyncpg", "aiohttp", "pydantic")
    work = (
        "import sys; from app.cli import app, main\n"
        "sys.argv = ['forewarn', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
    )
    assert _loaded_by(work, heavy) == "[]"


def test_a_start_loads_nothing_that_it_does_not_need() -> None:
    slow = ("aiohttp", "apscheduler", "app.backtest", "app.dashboard", "httpx", "jinja2")
    work = (
        "import sys; from app import main, outbound, settings\n"
        "main.create_app(settings.Settings()); outbound.Outbound(settings.Settings())\n"
    )
    assert _loaded_by(work, slow) == "[]"


def _loaded_by(work: str, names: tuple[str, ...]) -> str:
    """Which of these modules a Python has loaded after doing that, as it prints them."""
    script = f"{work}print([name for name in {names} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return done.stdout.splitlines()[-1]


def test_every_make_target_explains_itself() -> None:
    done = subprocess.run(["make", "help"], capture_output=True, text=True, check=True, cwd=ROOT)
    named = {line.split()[1] for line in done.stdout.splitlines()}
    assert named >= {"help", "demo", "run", "test", "check", "bench", "lock"}


def test_the_compose_file_has_the_services_and_asks_for_its_secrets() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    services = yaml.safe_load(text)["services"]
    assert set(services) == {"postgres", "migrate", "api", "worker"}
    assert services["postgres"]["image"].startswith("postgres:18")
    assert services["migrate"]["command"] == ["migrate"]
    for role in ("api", "worker"):
        assert services[role]["command"][-2:] == ["--role", role]
        assert (
            services[role]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        )
        assert "container_name" not in services[role], "there may be several"
        assert services[role]["stop_grace_period"] == "30s"
        assert set(services[role]["environment"]) <= {
            f"{PREFIX}{name.upper()}" for name in Settings.model_fields
        }
    assert len(services["api"]["ports"]) == 1
    assert re.search(r":-8000-8009\}:8000$", services["api"]["ports"][0]), "a port for each"
    assert "ports" not in services["worker"]
    assert re.findall(r"\$\{(POSTGRES_PASSWORD|FOREWARN_SECRET_KEY):\?Set \1 ", text)


def test_the_locks_pin_every_dependency_with_hashes_and_name_no_address() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / name).read_text()
        assert "://" not in text, name
        pins = re.findall(r"^([a-z0-9][a-z0-9._-]*)==\S+.*\\$", text, flags=re.MULTILINE)
        assert pins, name
        assert len(re.findall(r"^\S.*==", text, flags=re.MULTILINE)) == len(pins), name
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        wanted = project["dependencies"] + project["optional-dependencies"]["build"]
        assert {re.split(r"[\[<>=]", each, maxsplit=1)[0] for each in wanted} <= set(pins), name


def test_the_version_is_the_same_everywhere() -> None:
    from app.main import VERSION

    assert f'version = "{VERSION}"' in (ROOT / "pyproject.toml").read_text()


def test_the_figures_of_the_scaling_page_are_those_of_the_benchmarks() -> None:
    """And what it reckons with is on the careful side of them."""
    measured = {}
    for section in (DOCS / "benchmarks.md").read_text().split("\n## ")[1:]:
        for row in re.findall(r"^\| (.+?) \| ([\d,.]+) \|", section, re.MULTILINE):
            measured[f"{section.split()[0]}: {row[0]}"] = row[1]
    page = (DOCS / "scaling.md").read_text()
    cited = re.findall(r"^\| (\w+: .+?) \| ([\d,.]+) \| ([\d,.]+) (\S+) \|$", page, re.MULTILINE)
    assert len(cited) >= 5
    assert {case: told for case, told, *_ in cited} == {
        case: measured.get(case) for case, *_ in cited
    }
    for case, told, taken, unit in cited:
        value, careful = (float(number.replace(",", "")) for number in (told, taken))
        assert careful <= value if unit.endswith("/s") else careful >= value, case
