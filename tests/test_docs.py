"""What the documents say is there is there: links, commands, modules, make targets, metrics, decisions."""

import contextlib
import io
import re
import shlex
import shutil
import subprocess
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from prometheus_client.parser import text_string_to_metric_families

from gateway.cli.main import command_line
from ops.audit.log.entry import KINDS
from ops.metrics import BatchesDone, LabelFigures, Metrics, RecorderMetrics, RetentionMetrics, ScreenFacts, expose

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("ops/runbooks/*.md")])
DECISIONS = sorted(ROOT.glob("docs/adr/0*.md"))
SHELLS = {"sh", "bash", "console"}


def title(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(text: str) -> tuple[Token, ...]:
    return tuple(MarkdownIt("commonmark").enable("table").parse(text))


def tokens(text: str) -> Iterator[Token]:
    """All tokens of a document, those inside paragraphs and cells included."""
    for token in parsed(text):
        yield token
        yield from token.children or ()


def links(text: str) -> list[str]:
    return [
        str(target)
        for token in tokens(text)
        for name in ("href", "src")
        if (target := token.attrs.get(name)) is not None
    ]


def anchors(text: str) -> set[str]:
    """The anchors that a forge gives to headings."""
    heads = [inline.content for token, inline in pairwise(parsed(text)) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken(link: str, path: Path) -> bool:
    """Whether a link of the document at `path` leads nowhere. Links to elsewhere are not followed."""
    if re.match(r"[a-z]+:", link):
        return False
    file, _, anchor = link.partition("#")
    target = (path.parent / file).resolve() if file else path
    if not target.exists() or not target.is_relative_to(ROOT):
        return True
    return bool(anchor) and anchor not in anchors(target.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", DOCUMENTS, ids=title)
def test_every_relative_link_leads_somewhere(path):
    assert [link for link in links(path.read_text(encoding="utf-8")) if broken(link, path)] == []


class Block(NamedTuple):
    language: str
    text: str


def blocks(text: str) -> list[Block]:
    return [Block(token.info.strip(), token.content) for token in tokens(text) if token.type == "fence"]


def shell_lines(text: str) -> Iterator[str]:
    """Commands in fenced blocks, one a line, without prompts, comments and continuation; those of systemd units too."""
    for language, content in blocks(text):
        if language in SHELLS:
            lines = content.replace("\\\n", " ").splitlines()
            if any(line.startswith("$ ") for line in lines):
                lines = [line[2:] for line in lines if line.startswith("$ ")]
            yield from (line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
        elif language == "ini":
            yield from (line.partition("=")[2] for line in content.splitlines() if line.startswith("Exec"))


def commands(text: str) -> Iterator[list[str]]:
    """The single commands of all lines: what stands between pipes, semicolons and redirections."""
    for line in shell_lines(text):
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words: list[str] = []
        redirected = False
        for word in lexer:
            if redirected:
                redirected = False
            elif set(word) <= set("<>&") and set(word) & set("<>"):
                redirected = True
            elif set(word) <= set("|;&"):
                yield words
                words = []
            elif words or not re.match(r"[A-Z_]+=", word):  # a setting before a command is not part of it
                words.append(word)
        if words:
            yield words


def spans(text: str) -> list[str]:
    return [token.content for token in tokens(text) if token.type == "code_inline"]


@cache
def stockade() -> ArgumentParser:
    """The real command line: one, since the documents ask it hundreds of times."""
    return command_line()


def refused(arguments: list[str]) -> str | None:
    """What the real command line says against these arguments."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            stockade().parse_args(arguments)
    except SystemExit as exit_:
        return said.getvalue() or None if exit_.code else None
    return None


def verbs_of(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    return {
        name: verb
        for action in parser._actions
        if isinstance(action, _SubParsersAction)
        for name, verb in action.choices.items()
    }


def unknown(mention: list[str]) -> list[str]:
    """Words of a mention (`stockade audit verify --vkey`) that are no verb or option of the real command line."""
    parser, rest = stockade(), mention
    while rest and rest[0] in verbs_of(parser):
        parser, rest = verbs_of(parser)[rest[0]], rest[1:]
    if parser._subparsers is not None and rest and not rest[0].startswith("-"):
        return [rest[0]]
    known = set(parser._option_string_actions) | set(stockade()._option_string_actions)
    return [word for word in rest if word.startswith("-") and word.partition("=")[0] not in known]


def mentions(text: str) -> list[list[str]]:
    return [span.split()[1:] for span in spans(text) if re.match(r"stockade( |$)", span)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=title)
def test_every_command_line_shown_parses(path):
    shown = [words for words in commands(path.read_text(encoding="utf-8")) if Path(words[0]).name == "stockade"]
    assert {shlex.join(words): said for words in shown if (said := refused(words[1:]))} == {}


@pytest.mark.parametrize("path", DOCUMENTS, ids=title)
def test_every_verb_and_option_mentioned_exists(path):
    found = mentions(path.read_text(encoding="utf-8"))
    assert {" ".join(mention): wrong for mention in found if (wrong := unknown(mention))} == {}


@pytest.mark.parametrize("path", DOCUMENTS, ids=title)
def test_every_module_and_make_target_shown_exists(path):
    text = path.read_text(encoding="utf-8")
    shown = [*commands(text), *(span.split() for span in spans(text) if re.match(r"(make|python -m) ", span))]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    made = {word for words in shown if words[0] == "make" for word in words[1:] if re.fullmatch(r"[a-z-]+", word)}
    modules = {words[2] for words in shown if re.match(r"python3?$", Path(words[0]).name) and words[1:2] == ["-m"]}
    assert made - targets == set()
    assert {module for module in modules if find_spec(module) is None} == set()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Every metric name that a host can show, with and without the suffixes of its samples."""
    directory = tmp_path_factory.mktemp("metrics")
    worker = Metrics(directory, "worker-0", methods={"/a.B/C": "unary"}, reasons=["OK"])
    worker.serve_model("kiosk", "1", {"evidence": ScreenFacts(0.01, "AML.T0015", "shadow", 0.01, 0.01, 0.01)})
    worker.serve_classes(["standard"])
    worker.requests_done([])
    worker.models.batches_done("kiosk", BatchesDone([1], {"standard": 1}, {"standard": 1.0}, 0))
    worker.screens.judged("kiosk", "evidence", {"pass": 1}, [0.5])
    worker.models.answered("kiosk", [0.5])
    worker.models.account_steps("kiosk", {"top1": 1})
    worker.models.routing("kiosk", "1", 0.5)
    worker.models.kept_back("kiosk", "moved", 1)
    worker.feedback.items([("kiosk", "accepted", "")])
    worker.auth_failed("none", "OK")
    worker.limits_decided({("standard", "admit"): 1})
    worker.models.replicas("kiosk", "ready", 1)
    worker.models.fallback_batches("kiosk", 1)
    worker.policy("0" * 64)
    worker.build("0")
    worker.certificate("server", 0.0)
    worker.release.serve_releases({"kiosk": ["1", "2"]})
    worker.release.drift([("kiosk", "2", "scores", 0.1)])
    worker.release.weights("kiosk", {"1": 0.9, "2": 0.1})
    worker.release.event("kiosk", "started")
    worker.shared_limits(["timeout"])
    worker.response_cache().happened(lookups={("kiosk", "hit"): 1}, entries=1, nbytes=1)
    worker.ray_cluster().replicas({"stockade-kiosk-1": (1, 1)})
    worker.witnesses(["other"]).cosigned(1, 1.0)
    worker.replication().measured(size=1, entries=1, seconds=1.0)
    worker.erasures().owed({"requested": (0, 0), "agreed": (0, 0)})
    worker.evaluations().found([LabelFigures("kiosk", "2", "trusted", 1, 1, 0.0, 0.1, 1.0, 0.0)])
    recorder = RecorderMetrics(directory, "recorder", kinds=KINDS)
    retention = RetentionMetrics(directory)
    page = expose(directory).decode()
    worker.close()
    recorder.close()
    retention.close()
    families = list(text_string_to_metric_families(page))
    return {family.name for family in families} | {sample.name for family in families for sample in family.samples}


METRIC = re.compile(r"\b(?:stockade|grpc_server)_[a-z0-9_]+\b")


@pytest.mark.parametrize("path", DOCUMENTS, ids=title)
def test_every_metric_mentioned_exists(path, exported):
    assert set(METRIC.findall(path.read_text(encoding="utf-8"))) - exported == set()


def test_every_query_shown_is_promql(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    queries = [
        query
        for path in DOCUMENTS
        for language, content in blocks(path.read_text(encoding="utf-8"))
        if language == "promql"
        for query in re.sub(r"^#.*$", "", content, flags=re.MULTILINE).strip().split("\n\n")
    ]
    assert queries
    rules = tmp_path / "rules.yaml"
    lines = [f"  - record: query_{number}\n    expr: |\n" for number in range(len(queries))]
    bodies = ["".join(f"      {line}\n" for line in query.splitlines()) for query in queries]
    rules.write_text("groups:\n- name: docs\n  rules:\n" + "".join(map("".join, zip(lines, bodies, strict=True))))
    done = subprocess.run([promtool, "check", "rules", rules], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def outline(path: Path) -> list[str]:
    return re.findall(r"^## (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)


HEADINGS = ["Context", "Decision", "Consequences", "Not chosen"]


@pytest.mark.parametrize("path", DECISIONS, ids=title)
def test_every_decision_has_the_same_headings(path):
    number = str(int(path.name[:4]))
    text = path.read_text(encoding="utf-8")
    assert re.match(rf"# {number}\. .+\n\nStatus: (accepted|superseded by \[\d+\]\(.+\))\n", text)
    assert outline(path) == HEADINGS


def test_every_decision_is_listed_once_in_order():
    listed = [link for link in links((ROOT / "docs/adr/README.md").read_text(encoding="utf-8")) if link.startswith("0")]
    assert listed == [path.name for path in DECISIONS]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[a](missing.md)", ["missing.md"]),
        ("[a](README.md#no-such-heading)", ["README.md#no-such-heading"]),
        ("![a](docs/missing.png)", ["docs/missing.png"]),
        ("[a](README.md#try-it) [b](https://example.org/x) `[c](d)`", []),
        ("| a |\n|---|\n| [b](missing.md) |", ["missing.md"]),
        ("[out](../elsewhere)", ["../elsewhere"]),
    ],
)
def test_a_broken_link_is_seen(text, wrong):
    assert [link for link in links(text) if broken(link, ROOT / "x.md")] == wrong


@pytest.mark.parametrize(
    ("line", "parses"),
    [
        ("stockade check gateway/stockade.yaml  # says what is wrong", True),
        ("sudo -u stockade true | stockade audit verify DIR --json > report.json", True),
        ("stockade audit verify \\\n  DIR", True),
        ("stockade check", False),
        ("stockade check FILE --jsn", False),
        ("true && stockade explode now", False),
        ("ROUNDS=5 stockade bench memory", True),
        ("ROUNDS=5 stockade bench nothing", False),
    ],
)
def test_a_wrong_command_line_is_seen(line, parses):
    found = [words for words in commands(f"```sh\n{line}\n```\n") if words[0] == "stockade"]
    assert [refused(words[1:]) is None for words in found] == [parses]


@pytest.mark.parametrize(
    ("span", "wrong"),
    [
        ("stockade", []),
        ("stockade audit verify", []),
        ("stockade audit rescue", ["rescue"]),
        ("stockade serve --turbo", ["--turbo"]),
        ("stockade bench serve --report", []),
        ("stockade rescue", ["rescue"]),
    ],
)
def test_a_wrong_mention_is_seen(span, wrong):
    assert [unknown(mention) for mention in mentions(f"see `{span}` here")] == [wrong]


def test_an_unknown_metric_is_seen(exported):
    assert "stockade_requests_total" in exported
    assert "stockade_request_duration_seconds_bucket" in exported
    assert "stockade_audit_epochs" not in exported
    assert METRIC.findall("rate(stockade_nothing_total[5m])") == ["stockade_nothing_total"]
