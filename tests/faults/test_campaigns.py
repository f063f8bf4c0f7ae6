"""Hostile files, damage, kills and full disks: right, or clearly refused. Nothing else.

A sample of the cases that take milliseconds by default; all campaigns, whole, as slow tests.
"""

from pathlib import Path

import pytest

import faults.images as images
from faults.campaigns import CAMPAIGNS, Campaign
from faults.commands import run
from faults.misbehave import misbehave
from faults.table import END, PAGE, START
from faults.verdicts import GOOD, Verdict, of_command
from faults.workers import run_cases, timed
from patchpack.data.images import BadImage

SAMPLED = [campaign for campaign in CAMPAIGNS if campaign.sample]


def name_of(campaign: Campaign) -> str:
    return campaign.name


def assert_good(outcomes) -> None:
    wrong = [f"{o.case}: {o.verdict}: {o.detail}" for o in outcomes if o.verdict not in GOOD]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("campaign", SAMPLED, ids=name_of)
def test_a_sample_is_right_or_refused(campaign: Campaign, tmp_path: Path):
    step = campaign.count(tmp_path) // campaign.sample
    numbers = range(0, campaign.sample * step, step)
    assert_good(timed(campaign.check, number, tmp_path, tmp_path) for number in numbers)


def test_the_samples_are_300_cases():
    assert sum(campaign.sample for campaign in SAMPLED) == 300
    files = ("images", "videos", "manifests", "exports")
    assert sum(c.cases for c in SAMPLED if c.name in files) >= 10_000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all whole campaigns, which share what they compare with."""
    return tmp_path_factory.mktemp("campaigns")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("campaign", CAMPAIGNS, ids=name_of)
def test_a_whole_campaign_is_right_or_refused(campaign: Campaign, shared: Path):
    assert_good(campaign.run(shared, jobs=1))


@pytest.mark.parametrize("check", [c.check for c in SAMPLED], ids=[c.name for c in SAMPLED])
def test_cases_follow_from_their_numbers(check, tmp_path: Path):
    first, again = (timed(check, 17, tmp_path, tmp_path) for _ in range(2))
    assert (first.case, first.verdict, first.detail) == (again.case, again.verdict, again.detail)


def test_a_campaign_of_images_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Turned pixels are silent, other exceptions are tracebacks, refused good files unclear."""
    decode = images.decode
    seed = next(s for s in range(99) if images.hostile_image(s).name.startswith("PNG RGB"))
    seed = next(s for s in range(seed, 999) if images.hostile_image(s).name == "PNG RGB")

    def verdict_with(function) -> Verdict:
        monkeypatch.setattr(images, "decode", function)
        return timed(images.check_image, seed, tmp_path, tmp_path).verdict

    def fail(error: Exception):
        def raising(*_, **__):
            raise error

        return raising

    assert verdict_with(decode) == Verdict.RIGHT
    assert verdict_with(lambda *a, **k: decode(*a, **k)[::-1]) == Verdict.SILENT
    assert verdict_with(lambda *a, **k: decode(*a, **k)[1:]) == Verdict.SILENT
    assert verdict_with(fail(IndexError())) == Verdict.TRACEBACK
    assert verdict_with(fail(BadImage("the key", "is damaged"))) == Verdict.UNCLEAR


def test_refusals_are_one_line_that_names_the_file():
    good = "patchpack: a/config.json is not JSON\n"
    assert of_command(2, good, ("config.json",))[0] == Verdict.REFUSED
    assert of_command(2, good, ("log.jsonl",))[0] == Verdict.UNCLEAR
    assert of_command(2, "", ())[0] == Verdict.UNCLEAR
    assert of_command(2, "patchpack: \x1b[31m\n", ())[0] == Verdict.UNCLEAR
    assert of_command(1, f"{good}Traceback (most recent call last)\n", ())[0] == Verdict.TRACEBACK
    assert of_command(-9, "", ())[0] == Verdict.CRASH
    assert of_command(0, "", ())[0] == Verdict.RIGHT


def test_lost_workers_are_counted_and_replaced(tmp_path: Path):
    outcomes = run_cases(misbehave, range(6), tmp_path, tmp_path, seconds=3, jobs=1)
    verdicts = [outcome.verdict for outcome in outcomes]
    lost = [Verdict.HANG, Verdict.CRASH, Verdict.TRACEBACK]
    assert verdicts == [Verdict.RIGHT, *lost, Verdict.RIGHT, Verdict.RIGHT]


def test_a_command_runs_in_a_process_of_its_own(tmp_path: Path):
    result = run(["inspect", tmp_path / "absent"], tmp_path)
    assert of_command(result.status, result.err, (str(tmp_path / "absent"),))[0] == Verdict.REFUSED


def test_the_page_has_a_home_for_the_figures():
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(START) == text.count(END) == 1 and text.index(START) < text.index(END)
    table = text[text.index(START) : text.index(END)]
    assert all(f"| {campaign.name} |" in table for campaign in CAMPAIGNS)
