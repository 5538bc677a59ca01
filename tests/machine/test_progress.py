"""The progress bar: on a terminal one bar a thing, elsewhere nothing."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from odis.machine import progress
from odis.machine.progress import ProgressBar, error_console, output_console


def terminal(width: int = 100) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=True,
        force_interactive=True,
        width=width,
        markup=False,
        color_system=None,
    )


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_terminal_shows_a_bar_for_each_thing_and_lines_above() -> None:
    console = terminal()
    with ProgressBar(console, keep=True) as bar:
        assert bar.shown
        bar("train images", 0, None)
        bar("train images", 3, 12)
        console.print("skipped a.jpg: [no] image")
        bar("test images", 1, 2, "0.5 GiB")
        bar("test images", 2, 2)
    lines = [
        " ".join(line.split()) for line in re.sub("\x1b\\[[^m]*?[A-Za-z]", "", shown(console)).splitlines()
    ]
    assert "skipped a.jpg: [no] image" in lines
    train, test = [line for line in lines if line][-2:]
    assert re.fullmatch(r"train images 3/12 \S+ .*", train)
    assert re.fullmatch(r"test images 2/2 ━+ 0\.5 GiB 0:00:00", test)


@pytest.mark.parametrize(
    ("shown", "lines", "said"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_line_is_said_where_progress_is(shown: bool, lines: bool, said: bool) -> None:
    console = Console(file=io.StringIO(), width=100)
    with ProgressBar(console, shown=shown, lines=lines) as bar:
        bar.say("projected: 3 min")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ("projected: 3 min\n" if said else "")


def test_bars_go_at_the_end_unless_they_are_kept() -> None:
    screens = []
    for keep in (True, False):
        console = terminal()
        with ProgressBar(console, keep=keep) as bar:
            bar("images", 7, 9)
        screens.append(shown(console))
    erase = "\x1b[2K"
    assert not screens[0].endswith(erase)
    assert screens[1].endswith(erase)


def test_bars_are_taken_away_when_the_work_fails() -> None:
    console = terminal()

    def work() -> None:
        with ProgressBar(console) as bar:
            bar("images", 1, 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert shown(console).endswith("\x1b[2K")
    assert "\x1b[?25h" in shown(console)  # the cursor is there again


@pytest.mark.parametrize(("tty", "first"), [(False, True), (True, False), (False, False)])
def test_no_terminal_and_no_other_rank_shows_a_bar(tty: bool, first: bool) -> None:
    console = terminal() if tty else Console(file=io.StringIO(), markup=False, color_system=None)
    with ProgressBar(console, keep=True, shown=first) as bar:
        assert not bar.shown
        bar("images", 1, 2, "text")
        console.print("a line")
    assert shown(console) == "a line\n"


def test_the_console_says_names_as_they_are(capsys: pytest.CaptureFixture) -> None:
    error_console().print("[red]a :smile: 12.png[/red]", soft_wrap=True)
    assert capsys.readouterr() == ("", "[red]a :smile: 12.png[/red]\n")


def test_a_table_shows_names_that_would_move_the_cursor_as_python_writes_them(
    capsys: pytest.CaptureFixture,
) -> None:
    table = Table("class", title="of\x1b[2Jan index")
    table.add_row("cat\x1b[31m\u202edog")
    output_console().print(table)
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert r"cat\x1b[31" in said  # cells have the width of the raw text
    assert len(said.splitlines()) == 6


def test_elsewhere_a_line_says_how_far_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("odis.machine.progress.time.monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=80)
    with ProgressBar(console) as bar:
        for done in range(0, 101):
            bar(
                "a very long name of a model, of more than eighty columns with all of its words, train",
                done,
                100,
            )
            bar("unknown", done, None)
            now[0] += 1
    assert shown(console).splitlines() == [
        line
        for done, left in ((10, "0:01:30"), (40, "0:01:00"), (70, "0:00:30"))
        for line in (
            f"a very long name of a model, of more than eighty columns with all of its words, train: {done} "
            f"of 100, {left} left",
            f"unknown: {done}",
        )
    ] + ["unknown: 100"]


@pytest.mark.parametrize("how", [{"lines": False}, {"shown": False}])
def test_lines_are_turned_off(monkeypatch: pytest.MonkeyPatch, how: dict[str, bool]) -> None:
    now = [0.0]
    monkeypatch.setattr("odis.machine.progress.time.monotonic", lambda: now[0])
    console = Console(file=io.StringIO())
    with ProgressBar(console, **how) as bar:
        for done in range(100):
            bar("images", done, 100)
            now[0] += 10
    assert shown(console) == ""


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"])
def test_a_pipe_has_no_bar_whatever_the_environment_says(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv(name, "1")
    with ProgressBar(error_console(), keep=True) as bar:
        bar("images", 1, 2)
        assert not bar.shown
    assert capsys.readouterr() == ("", "")


def test_only_this_module_moves_the_cursor() -> None:
    source = Path(progress.__file__).parents[1]
    bars = re.compile(r"\brich\.(progress|live|status|progress_bar)\b|\btqdm\b|\.isatty\(|\\r[^n].*end=")
    assert bars.search("from rich.live import Live")
    found = [p.relative_to(source).as_posix() for p in source.rglob("*.py") if bars.search(p.read_text())]
    assert found == ["machine/progress.py"]
