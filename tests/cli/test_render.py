"""What is printed is what is there: ids and captions come from strangers."""

import json

from embedstore_cli import render

STRANGE = "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J \x7f\r [bold]b[/] :dog: \\[x"
SHOWN = r"\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J \x7f\x0d [bold]b[/] :dog: \[x"


def test_lines_and_tables_hold_no_control_characters_markup_or_emojis(capsys):
    for say in (render.say, render.heading, render.note, render.warn, render.fail):
        say(STRANGE)
    render.say("half a character \udcff")
    out, err = capsys.readouterr()
    assert out.splitlines() == [SHOWN, SHOWN, r"half a character \udcff"]
    assert err.splitlines() == [SHOWN, f"warning: {SHOWN}", f"error: {SHOWN}"]
    render.table(":dog:", ("[b]", "id"), [("\x1b[1m", ":dog:\x9b \\[x")], words=("id",))
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        [":dog:"],
        ["[b]", "id"],
        [r"\x1b[1m", r":dog:\x9b", r"\[x"],
    ]


def test_bars_take_names_as_they_are(capsys):
    with render.bars() as bars:
        bars.update("[red]:dog:\x1b[1m", done=1, total=2, note="[b]\x1b")
        bars.line("[red]:dog:\x1b")
    err = capsys.readouterr().err
    assert r"[red]:dog:\x1b[1m" in err
    assert r"[b]\x1b" in err
    assert "[red]:dog:\\x1b\n" in err


def test_json_is_the_same_value_without_control_characters(capsys):
    value = {"id": f"{STRANGE}\udcff é"}
    render.print_json(value)
    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert all(letter.isprintable() or letter == "\n" for letter in out)
    assert "é" in out
