"""The campaign's short form: a few cases of every section, and what the watching process makes of a bad one."""

import json
from importlib import import_module

import pytest

from specsync_lib.paths import MEASUREMENTS_DIR
from workbench.measure import campaign, trials
from workbench.measure.campaign import SECTIONS, Section
from workbench.measure.trials import outcome
from workbench.measure.trials.outcome import Lost, Outcome

SLOW = {"kills"}  # a run of the runner, killed and begun again: half a minute


@pytest.mark.parametrize(
    "section", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in SECTIONS]
)
def test_a_few_cases_of_every_section_survive(section, tmp_path):
    module = import_module(f"workbench.measure.trials.{SECTIONS[section].module}")
    for number, name in enumerate(module.names(short=True)):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = module.attempt(name, folder)
        assert done.lost == [], name
        assert done.tried > 0


@pytest.mark.parametrize("section", SECTIONS)
def test_the_cases_are_as_many_as_the_campaign_owes(section):
    module = import_module(f"workbench.measure.trials.{SECTIONS[section].module}")
    names = module.names(short=False)
    assert len(set(names)) == len(names)
    each = {"kills": lambda name: int(name.rsplit(" ", 1)[1]), "soak": lambda name: int(name.split()[1])}
    each |= dict.fromkeys(("cancels", "schedules", "starts", "interruptions"), each["kills"])
    assert sum(each.get(section, lambda name: 1)(name) for name in names) >= SECTIONS[section].owed


FAULTY = """
import os, sys, time
from workbench.measure.trials.outcome import Outcome, require, survived

def names(short):
    return ["right", "wrong", "raises", "dies", "hangs", "right again"]

def attempt(name, folder):
    require(name != "wrong", "four is not five")
    if name == "raises":
        raise KeyError("two\\nlines")
    if name == "dies":
        os._exit(7)
    if name == "hangs":
        time.sleep(600)
    print("what a library says")
    return survived("right answer")
"""


def test_what_dies_hangs_or_raises_costs_its_own_case_and_a_stopped_campaign_goes_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "faulty.py").write_text(FAULTY)
    monkeypatch.setattr(trials, "__path__", [*trials.__path__, str(tmp_path)])
    monkeypatch.setitem(SECTIONS, "sounds", Section("faults", 1, 4, "faulty"))
    served = (
        "import sys; from workbench.measure import campaign, trials; "
        f"trials.__path__.append({str(tmp_path)!r}); "
        "campaign.SECTIONS['sounds'] = campaign.Section('faults', 1, 4, 'faulty'); campaign.serve('sounds')"
    )
    monkeypatch.setattr(campaign, "SERVING", ("-c", served))
    out, kept = tmp_path / "campaign.json", tmp_path / "kept"
    arguments = ["--only", "sounds", "--out", str(out), "--kept", str(kept)]
    assert campaign.main(arguments) == 1
    entry = json.loads(out.read_text())["sections"]["sounds"]
    assert (entry["tried"], entry["survived"], entry["lost"]) == (6, 2, 4)
    assert entry["lost_cases"] == [
        "wrong: four is not five",
        "raises: KeyError at faulty.py:11: 'two\\nlines'",
        "dies: the process died (exit code 7)",
        "hangs: no answer within 4 s",
    ]
    lines = (kept / "sounds.jsonl").read_text().splitlines()
    (kept / "sounds.jsonl").write_text("\n".join([*lines[:2], lines[2][:20]]))  # stopped while it wrote
    assert campaign.main(arguments) == 1
    assert json.loads(out.read_text())["total"] == {"tried": 6, "survived": 2, "lost": 4}
    assert "lost: dies" in capsys.readouterr().out


def test_a_loss_is_an_assertion_and_says_what_came():
    with pytest.raises(Lost, match="a traceback"):
        outcome.one_line("Traceback (most recent call last): something")
    with pytest.raises(Lost, match="not one line"):
        outcome.one_line("one line here\nand another")
    assert Outcome(lost=["a line"]).tried == 1


def test_the_committed_campaign_tells_what_it_tried_and_what_it_lost():
    content = json.loads((MEASUREMENTS_DIR / "campaign.json").read_text(encoding="utf-8"))
    sections = content["sections"]
    assert sections.keys() == SECTIONS.keys()
    assert content["fell_short"] == [name for name, one in sections.items() if one["tried"] < one["owed"]]
    for name, one in sections.items():
        assert one["tried"] == one["survived"] + one["lost"] and len(one["lost_cases"]) == one["lost"]
        assert one["lost"] == 0 or name == "kills"  # docs/limits.md says which
    assert all(one["crashes"] == one["hangs"] == 0 and one["seconds"] >= 600 for one in content["fuzzers"].values())
    assert sections["interruptions"]["facts"]["stale frames"] == 0
