"""The simulation against the closed form, against itself in a measured file's clothes, and against its own claims."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from specsync_lib.errors import InputError
from specsync_lib.measures import claims
from specsync_lib.measures.latency import buffer_for, percentile_interval, playout, run_numbers, stage_numbers
from specsync_lib.paths import PROJECT_ROOT
from specsync_lib.pipeline import answers, simulate, stage_times
from specsync_lib.pipeline.answers import ChunkPattern
from specsync_lib.pipeline.chips import CHIPS, HERE, TFLOP, chips_for_reasoner, on_chip, stage_works
from specsync_lib.pipeline.stage_times import Setup, Spread, exactly

CHUNKS = 20


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def setup_of(
    draft=1.0, plan=200.0, verify=(30.0, 55.0), begin=0.5, step=10.0, render=20.0, commit=0.2, **facts
) -> Setup:
    spreads = {"draft": draft, "plan": plan, "token": plan / 12, "begin": begin, "step": step, "render": render}
    return Setup(
        name="toy", label="measured", source="here", commit=exactly(commit), steps=facts.pop("steps", 2),
        verify={passes: exactly(ms) for passes, ms in enumerate(verify, 1)},
        **{name: exactly(ms) for name, ms in spreads.items()}, **facts,
    )  # fmt: skip


times = st.floats(0.1, 100)


@settings(max_examples=60)
@given(
    setup=st.builds(
        setup_of, draft=times, plan=times, begin=times, step=times, render=times, commit=times,
        verify=st.tuples(times, times).map(lambda pair: (min(pair), sum(pair))),
        steps=st.integers(1, 4), render_parts=st.integers(1, 3),
    ),
    rate=st.floats(0, 1),
    policy=st.sampled_from(list(simulate.LATE_POLICIES)),
)  # fmt: skip
def test_simulation_and_closed_form_agree_whatever_the_times(setup, rate, policy):
    # a verdict at the very moment when a job ends comes before or after it, as rounding has it
    ends = np.cumsum([0.0, *setup.job_ms])
    assume(np.abs(ends - setup.verify_ms(1).median_ms).min() > 1e-6)
    rng = np.random.default_rng(0)
    pattern = answers.random_pattern(rate, CHUNKS, rng)
    report = simulate.simulate(setup, "speculative", pattern, rng, chunks=CHUNKS, policy=simulate.LATE_POLICIES[policy])
    found = simulate.summary_row(report)
    by_hand = simulate.expected_ms(setup, answers.rejection_rate(pattern), "speculative", policy)
    assert found["mean_ms"] == pytest.approx(by_hand, rel=1e-6, abs=1e-3)
    assert found["n"] == CHUNKS
    if policy != "overrule":
        assert found["plan_error"] == 0
    serial = simulate.summary_row(simulate.simulate(setup, "serial", pattern, rng, chunks=CHUNKS))
    assert serial["mean_ms"] == pytest.approx(simulate.expected_ms(setup, rate, "serial"), rel=1e-6, abs=1e-3)


def test_words_lead_to_the_final_plan_and_only_the_last_is_it():
    tokens = tuple(range(12))
    for passes in range(1, 5):
        for guessed in (False, True):
            words = ChunkPattern(passes, (), guessed).words(tokens)
            assert len(words) == passes - (not guessed)
            assert [word == tokens for word in words] == [False] * (len(words) - 1) + [True] * bool(words)
            assert all(len(word) == 12 and set(word) <= set(range(15)) for word in words)
    for known_after, right in ((0, [True, True]), (1, [False, True]), (2, [False, False])):
        words = ChunkPattern(2, (), True, known_after).words(tokens)
        assert [word == tokens for word in words] == right


def test_a_plan_that_only_the_last_pass_finds_is_generated_behind_it(rng):
    """Verified in one pass with others, but not the one that was told: the last step waits for the pass anyway; found
    by the second alone, it costs the last step and the decode after that pass."""
    setup = setup_of(verify=(25.0, 45.0), steps=2)
    run = lambda *chunk: simulate.simulate(setup, "speculative", [ChunkPattern(*chunk)], rng, chunks=6)  # noqa: E731
    told, untold, late = run(1, (3,), True, 0), run(1, (3,), True, 1), run(2, (3,), True, 2)
    latency = lambda report: simulate.summary_row(report)["mean_ms"]  # noqa: E731
    assert latency(told) == latency(untold) < latency(late) and late.counts["rewound"] == 6
    again_ms = setup.step.median_ms + setup.render_parts * setup.render.median_ms
    assert latency(late) == pytest.approx(
        setup.draft.median_ms + 45.0 + again_ms + setup.commit.median_ms, abs=setup.render.median_ms
    )


def test_a_right_guess_costs_nothing_and_a_wrong_one_a_pass(rng):
    """Two steps of 10 ms; the guess is there after 5 ms, before the second step."""
    setup = replace(setup_of(verify=(25.0, 45.0)), guess=stage_times.exactly(5.0))
    run = lambda *chunk: simulate.simulate(setup, "speculative", [ChunkPattern(*chunk)], rng, chunks=6)  # noqa: E731
    accepted, guessed, missed = run(1, (), True), run(1, (3,), True), run(2, (3,), True)
    latency = lambda report: simulate.summary_row(report)["mean_ms"]  # noqa: E731
    assert latency(accepted) == latency(guessed) <= latency(missed)
    assert guessed.counts["corrected mid-flight"] == 6 and "rolled back" not in guessed.counts
    for report in (accepted, guessed, missed):
        assert simulate.summary_row(report)["plan_error"] == 0 and report.counts["verdicts guessed"] == 6


def test_break_even_is_where_the_means_cross(rng):
    setup = setup_of(plan=20.0, verify=(30.0, 60.0), steps=1)
    rate = simulate.break_even_rate(setup, "midflight")
    assert 0 < rate < 1
    found = simulate.simulated_break_even(setup, rng, policy="midflight", chunks=CHUNKS)
    assert found == pytest.approx(rate, abs=1e-6)
    below, above = (simulate.expected_ms(setup, rate + shift, "speculative", "midflight") for shift in (-0.1, 0.1))
    assert below < simulate.expected_ms(setup, 0, "serial") < above


def test_a_judge_that_is_cheap_to_hide_always_pays(rng):
    setup = setup_of(plan=500.0)
    assert simulate.break_even_rate(setup) == simulate.simulated_break_even(setup, rng, chunks=CHUNKS) == np.inf


def test_a_shared_chip_is_slower_than_two_and_at_most_by_its_stretch(rng):
    alone = setup_of(verify=(25.0, 45.0))
    pattern = answers.random_pattern(0.5, CHUNKS, rng)
    run = lambda setup: simulate.summary_row(simulate.simulate(setup, "speculative", pattern, rng, chunks=CHUNKS))  # noqa: E731
    two, one = run(alone)["mean_ms"], run(replace(alone, stretch=2.0))["mean_ms"]
    assert two < one <= 2 * two + 1


def test_serial_with_reasoning_costs_its_tokens(rng):
    setup = setup_of()
    plain, reasoned = (
        simulate.summary_row(simulate.simulate(setup, mode, [ChunkPattern()], rng, chunks=5))["p50_ms"]
        for mode in ("serial", "serial_reasoning")
    )
    assert reasoned - plain == pytest.approx(simulate.REASONING_TOKENS * 200 / 12)


def write_measured(path, setup: Setup, pattern, rng, *, slower: float = 1.0) -> None:
    """A file as a measurement leaves it, out of a simulation whose latencies are then stretched."""
    runs, stages = {}, {}
    for mode in ("serial", "speculative"):
        reports = [simulate.simulate(setup, mode, pattern, rng, chunks=30)]
        runs[mode], stages[mode] = run_numbers(reports), stage_numbers(reports)
        runs[mode]["p50_ms"] *= slower
    replayed = [{"passes": one.passes, "rejected": list(one.rejected)} for one in pattern]
    content = {"setup": "toy", "label": "measured", "render_parts": setup.render_parts, "replayed": replayed}
    held = {"speculative": "last step"}
    content["regions"] = {"all": {"steps": setup.steps, "hold_before": held, "runs": runs, "stages": stages}}
    path.write_text(json.dumps(content))


def test_the_model_meets_a_measured_file_and_notices_one_that_it_cannot_explain(tmp_path, rng):
    noisy = Spread((0.0, 0.5, 1.0), (8.0, 10.0, 14.0))
    setup = replace(setup_of(render_parts=3), step=noisy, verify={1: noisy.times(3), 2: noisy.times(5.5)})
    pattern = answers.random_pattern(0.3, 30, rng)
    write_measured(tmp_path / "pipeline_toy.json", setup, pattern, rng)
    table = simulate.check_measured(rng, tmp_path)
    assert set(table["mode"]) == {"serial", "speculative"}
    assert table["relative_error"].max() < simulate.TOLERANCE
    write_measured(tmp_path / "pipeline_toy.json", setup, pattern, rng, slower=1.3)
    assert simulate.check_measured(rng, tmp_path)["relative_error"].min() > simulate.TOLERANCE


def test_a_spread_draws_what_it_was_given(rng):
    spread = Spread.of({"median_ms": 10.0, "p20_ms": 8.0, "p80_ms": 13.0, "p99_ms": 30.0})
    drawn = np.array([1000 * spread.draw_s(rng) for _ in range(4000)])
    assert np.percentile(drawn, [20, 50, 80]) == pytest.approx([8, 10, 13], rel=0.1)
    assert drawn.max() <= 30 and spread.median_ms == 10
    with pytest.raises(InputError, match="median_ms"):
        Spread.of({"n": 3})


# --- chips ------------------------------------------------------------------------------------------------------------


def test_scaling_to_the_same_chip_changes_nothing():
    setup = stage_times.reference_setup()
    there, chips = on_chip(setup, "384px", HERE, "bf16")
    assert chips == 2
    for name in ("draft", "plan", "token", "step", "render"):
        assert getattr(there, name).median_ms == pytest.approx(getattr(setup, name).median_ms, rel=0.01)


def test_a_chip_is_scaled_by_what_holds_the_stage_back():
    here, half = CHIPS[HERE], "RTX PRO 6000 Blackwell (sm_120)"
    there = CHIPS[half]
    works = stage_works(stage_times.reference_setup(), "384px")
    assert {name: work.bound(here) for name, work in works.items()} == {
        "draft": "launch", "encoder": "compute", "token": "memory", "verify": "memory", "step": "compute",
        "render": "compute",
    }  # fmt: skip
    assert works["token"].on(here, there) / works["token"].time_ms == pytest.approx(4800 / 1792)
    assert works["step"].on(here, there) / works["step"].time_ms == pytest.approx(989 / 503.8)
    assert works["draft"].on(here, there) == works["draft"].time_ms


def test_the_reasoner_needs_as_many_chips_as_its_weights_fill():
    chips = CHIPS
    assert chips_for_reasoner(chips["H200 SXM"], "bf16") == 1  # 131 of 141 GiB
    assert chips_for_reasoner(chips["H100 SXM"], "bf16") == 2
    assert chips_for_reasoner(chips["RTX PRO 6000 Blackwell (sm_120)"], "fp8") == 1
    assert chips_for_reasoner(chips["RTX 5090"], "fp8") == 3


def test_the_counted_arithmetic_is_the_models_own():
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from torch.utils.flop_counter import FlopCounterMode

    from workbench.measure.shapes import FULL

    meta, (height, width) = torch.device("meta"), FULL.regions["384px"]
    latents = torch.empty(1, 16, 3, height // 8, width // 8, device=meta)
    with meta, torch.no_grad():
        transformer, vae = WanTransformer3DModel(**FULL.transformer), AutoencoderKLWan(**FULL.vae)
        transformer.rope.to_empty(device=meta)
        with FlopCounterMode(display=False) as counter:
            text = torch.empty(1, FULL.condition_tokens, 4096, device=meta)
            transformer(latents, torch.ones(1, device=meta), text, return_dict=False)
        assert counter.get_total_flops() / 1e12 == pytest.approx(TFLOP["denoise"]["384px"], rel=0.01)
        cache = [None] * vae._cached_conv_counts["decoder"]
        slots = vae.post_quant_conv(latents)
        vae.decoder(slots[:, :, :1], feat_cache=cache, feat_idx=[0], first_chunk=True)
        with FlopCounterMode(display=False) as counter:
            vae.decoder(slots, feat_cache=cache, feat_idx=[0])
        assert counter.get_total_flops() / 1e12 == pytest.approx(TFLOP["decode"]["384px"], rel=0.01)


def test_what_the_claim_needs_adds_up_to_the_claim():
    needed = claims.needed_by_claim(stage_times.reference_setup()).set_index("what")["needed"]
    assert needed["the reasoner's visible time, a chunk"] + needed["everything but the reasoner"] == 645
    assert needed["one token of the plan, 12 a chunk"] == pytest.approx(138 / 12)


# --- bad input and the command ----------------------------------------------------------------------------------------


def test_bad_input_is_one_line(rng):
    setup = setup_of()
    for call in (
        lambda: simulate.simulate(setup, "parallel", [ChunkPattern()], rng),
        lambda: simulate.simulate(setup, "serial", [], rng),
        lambda: answers.random_pattern(1.5, 10, rng),
        lambda: on_chip(setup, "384px", "abacus", "bf16"),
        lambda: stage_times.reference_setup("1080p"),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert "\n" not in str(error.value)


def test_an_absent_pattern_is_said_to_be_drawn(tmp_path):
    pattern, source = answers.measured_pattern(tmp_path / "acceptance_pattern.json")
    assert "not measured yet" in source
    assert answers.rejection_rate(pattern) == pytest.approx(answers.ASSUMED_REJECTION_RATE)
    measured = {"chunks": [{"passes": 2, "rejected_at": [3, 7]}, {"passes": 1, "rejected_at": []}]}
    (tmp_path / "acceptance_pattern.json").write_text(json.dumps(measured))
    pattern, source = answers.measured_pattern(tmp_path / "acceptance_pattern.json", "exact")
    assert pattern == [ChunkPattern(2, (3, 7)), ChunkPattern(1, ())] and "not measured" not in source
    for chunk, passes in zip(measured["chunks"], (1, 3), strict=True):
        chunk |= {"guessed_passes": passes, "branched_12_32_passes": 1, "branched_12_32_known_after": passes == 3}
    (tmp_path / "acceptance_pattern.json").write_text(json.dumps(measured))
    for way, told in (("guessed", [(1, None), (3, None)]), ("branched", [(1, 0), (1, 1)])):
        pattern, source = answers.measured_pattern(tmp_path / "acceptance_pattern.json", way)
        assert [(one.passes, one.known_after) for one in pattern] == told and all(one.guessed for one in pattern)
        assert source.endswith(way)
    with pytest.raises(InputError, match="38 frames a pass"):
        answers.measured_pattern(tmp_path / "acceptance_pattern.json", "branched", "38")


def test_the_command_writes_its_plots_from_any_folder_and_labels_everything(tmp_path):
    script = PROJECT_ROOT / "simulate_research.py"
    command = [sys.executable, str(script), "--chunks", "10", "--out", str(tmp_path / "plots")]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True)
    pictures = sorted(path.name for path in (tmp_path / "plots").glob("*.png"))
    assert pictures == ["late_verdicts.png", "latency_chips.png", "latency_simulated.png"]
    assert all((tmp_path / "plots" / name).with_suffix(".csv").stat().st_size > 100 for name in pictures)
    blocks = [block for block in answer.stdout.split("\n\n") if not block.startswith("wrote")]
    assert all(block.startswith("simulated:") for block in blocks)


@pytest.mark.parametrize("arguments", [["--chunks", "0"], ["--chunks", "x"], ["--bogus"], ["--seed", "-1"], ["extra"]])
def test_bad_arguments_are_one_line_and_exit_code_2(arguments, capsys):
    from specsync_lib.figures.simulated import main

    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["file", "file/below", "a\nfile/below", "x" * 300, "loop"])
def test_a_folder_that_can_not_be_one_is_told_before_anything_is_simulated(tmp_path, monkeypatch, capsys, name):
    from specsync_lib.figures import simulated

    monkeypatch.setattr(simulated, "run", lambda *_: pytest.fail("simulated"))
    monkeypatch.chdir(tmp_path)
    for file in ("file", "a\nfile"):
        (tmp_path / file).touch()
    (tmp_path / "loop").symlink_to("loop")
    assert simulated.main(["--out", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("simulate_research: --out: ") and line.endswith("; give another")


# --- numbers of runs --------------------------------------------------------------------------------------------------


def test_a_late_chunk_is_waited_for_and_a_buffer_hides_it():
    committed_s = np.array([0.1, 0.5, 1.1, 1.3])  # the third is 0.2 s later than its turn
    assert buffer_for(committed_s) == pytest.approx(0.3)
    in_time = playout(committed_s, 0.31)
    assert (in_time["late_ms"] == 0).all() and np.allclose(in_time["step_ms"], 1000 / 30)
    frozen = playout(committed_s, 0.1)
    assert frozen["late_ms"].max() == pytest.approx(200)
    assert frozen["step_ms"].max() == pytest.approx(200 + 1000 / 30)
    assert (np.diff(frozen["shown_s"]) >= 0).all()


def test_an_interval_of_a_percentile_holds_it_and_resamples_streams(rng):
    values = rng.normal(100, 10, 200)
    found = percentile_interval(values, np.arange(200) // 20, 50, rng)
    assert found.low <= found.value <= found.high and found.resampling_unit == "stream"
    assert percentile_interval(values, np.zeros(200), 50, rng).resampling_unit == "chunk"
    dependent = np.repeat(rng.normal(100, 10, 10), 20)  # streams differ, chunks of a stream do not
    by_stream = percentile_interval(dependent, np.arange(200) // 20, 50, rng)
    by_chunk = percentile_interval(dependent, np.zeros(200), 50, rng)
    assert by_stream.high - by_stream.low > by_chunk.high - by_chunk.low


def test_a_spread_splits_into_its_faster_and_its_slower_times():
    spread = stage_times.Spread.of({"median_ms": 4.0, "p20_ms": 2.0, "p80_ms": 6.0, "p99_ms": 10.0})
    fast, slow = spread.split(0.5)
    assert max(fast.values_ms) == pytest.approx(4.0) == min(slow.values_ms)
    rng = np.random.default_rng(0)
    drawn = [part.draw_s(rng) for part in (fast, slow) for _ in range(2000)]
    whole = [spread.draw_s(rng) for _ in range(4000)]
    assert np.mean(drawn) == pytest.approx(np.mean(whole), rel=0.03)


def test_one_outlier_is_not_stretched_over_the_last_twentieth():
    row = {"median_ms": 4.0, "p99_ms": 6.0, "quantiles_ms": [*np.linspace(2.0, 5.9, 20), 80.0]}
    spread = stage_times.Spread.of(row)
    rng = np.random.default_rng(0)
    assert np.percentile([spread.draw_s(rng) for _ in range(5000)], 98) < 0.006
    slow = spread.split(0.5)[1]
    assert np.interp(0.98, slow.shares, slow.values_ms) == pytest.approx(6.0)  # a split keeps what is known


def test_the_last_part_of_the_frames_takes_what_it_takes_where_nothing_works_beside_it():
    in_parts = 0
    for path in stage_times.measured_files():  # whichever mode such a file names first
        for modes in stage_times.measured_setups(path).values():
            if modes["serial"].render_parts > 1:
                in_parts += 1
                assert {setup.last_render for setup in modes.values()} == {modes["serial"].last_render}
                assert modes["speculative"].render != modes["serial"].render
    assert in_parts


def test_the_last_of_a_chunks_steps_and_renders_takes_its_own_time():
    setup = stage_times.reference_setup(steps=3)
    late = replace(setup, last_step=stage_times.exactly(50.0), last_render=stage_times.exactly(70.0), render_parts=2)
    other = setup.job_ms[1] * 2 + setup.render.median_ms
    assert late.generation_ms == pytest.approx(other + 120.0)
    report = simulate.simulate(late, "serial", [ChunkPattern()], np.random.default_rng(0), chunks=2)
    expected = setup.draft.median_ms + setup.plan.median_ms + late.generation_ms
    assert report.chunks()["latency_ms"].iloc[0] == pytest.approx(expected, rel=1e-6)


def test_the_model_is_within_its_tolerance_of_every_measured_pipeline():
    """As docs/limits.md says; which median lies nearest to the edge depends on the model's own draws."""
    table = simulate.check_measured(np.random.default_rng(0))
    assert {"cpu", "h200", "h200x2", "h200x2_fp8"} <= set(table["setup"])
    assert table["relative_error"].max() <= simulate.TOLERANCE, table.to_string()
