"""The report's words: claims, readings of summary keys, captions of figures.

They stand here and not where ``record`` and ``save_figure`` are called: most keys are made in loops (setups, regions,
rules), so their words are rules too, and what one page says is read and mended in one place.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """A claim of the source report, the summary keys (shell patterns) that bear on it, and those that must be there.

    ``awaits`` maps a pattern to what has to be built before its numbers exist; ``needs_truth``: without a truth this
    run has none of them.
    """

    question: str
    claimed: str
    keys: tuple[str, ...]
    awaits: Mapping[str, str]
    needs_truth: bool = False


# latency.SETUP.what or latency.SETUP.what_REGION, as notebook 05 records them
LATENCY_READINGS = {
    "serial_p50_ms": "serial, median",
    "speculative_p50_ms": "speculative, median",
    "speculative_p99_ms": "speculative, p99",
    "branched_p50_ms": "speculative, several plans a pass, median",
    "branched_p99_ms": "speculative, several plans a pass, p99",
    "lenient_p50_ms": "speculative, lenient judge, median",
    "lenient_p99_ms": "speculative, lenient judge, p99",
    "mouth_p50_ms": "speculative, exact on mouth shapes, median",
    "mouth_p99_ms": "speculative, exact on mouth shapes, p99",
    "generation_p50_ms": "generation alone, nobody asked, median",
    "after_silence_p99_ms": "the first chunk after silence, p99",
    "reduction": "saved by speculation",
    "delivery_jitter_p99_ms": "delivery jitter, p99",
    "sound_to_frame_p50_ms": "from sound to its frame, median, by sum of the measured parts",
    "sound_to_frame_p99_ms": "from sound to its frame, p99, by sum of the measured parts",
}
SETUP_NAMES = {
    "h200x2": "two H200s",
    "h200x2_fp8": "two H200s, reasoner in FP8",
    "h200": "one H200",
    "cpu": "this suite's models on a CPU",
    "own": "this row",
}
# others: notebook 05, the summary
HEADLINE_SETUPS = (("h200x2", "_384px"), ("h200x2_fp8", ""), ("h200", "_384px"), ("cpu", ""), ("own", ""))
CLAIMS = (
    Claim(
        "Verifying in the background shortens the whole pipeline",
        "645 → 507 ms (−21 %)",
        (
            *(f"latency.{setup}.{name}{region}" for setup, region in HEADLINE_SETUPS for name in LATENCY_READINGS),
            "simulate.max_relative_error",
            "run.serial_*",
            "run.speculative_*",
            "run.sound_to_frame_*",
            "run.same_plan",
        ),
        {"latency.*": "the asynchronous pipeline"},
    ),
    Claim(
        "Most drafted frames are accepted at confidence 0.85",
        "88 %",
        (
            "run.acceptance",
            "run.coverage",
            "run.passes_a_second",
            "run.agreement_with_judge",
            "run.lip_error_*",
            "draft.acceptance_*",
            "draft.coverage_*",
            "acceptance.*",
            "reasoner.*",
        ),
        {"reasoner.*": "the language model as judge"},
    ),
    Claim(
        "The kernel costs next to nothing",
        "under 15 ms",
        ("kernel.*_us", "kernel.*_ms"),
        {"kernel.full720p_*": "the compiled kernel on a GPU"},
    ),
    Claim(
        "The mouth can be drafted from audio alone",
        "Whisper-distilled; no accuracy given",
        (
            "draft.accuracy*",
            "draft.teacher_*",
            "draft.energy_*",
            "draft.majority_*",
            "draft.ece",
            "draft.real_speakers_*",
            "features.rtf",
            "features.hop_latency_ms",
        ),
        {"draft.accuracy": "the trained draft"},
    ),
    Claim("The video is 720p at 30 fps, sound in step", "720p30", ("video.*",), {"video.*": "the video"}),
    Claim(
        "Lip-sync is near-perfect, with little jitter",
        "near-perfect; no number given",
        ("sync.*",),
        {"sync.jitter_ratio": "the generated video against truth (a smoke run measures none)"},
        needs_truth=True,
    ),
    Claim(
        "Audio envelopes project to Wan latents",
        "asserted, not measured",
        ("latent.*",),
        {"latent.*": "the trained latent projection"},
    ),
    Claim(
        "The kernel is tuned for sm_120 by Triton",
        "sm_120",
        ("kernel.sm120_*", "kernel.*_fraction", "kernel.speedup_*"),
        {"kernel.sm120_*": "the kernel compiled for sm_120"},
    ),
)
DECODERS = {
    "wan": "the VAE's own decoder",
    "light": "a decoder like the VAE's own with a quarter of its channels and random weights, which shows noise",
    "tiny": "the small decoder trained here",
}
READINGS = {
    "decoder.psnr_db": "the small decoder, new people: PSNR",
    "decoder.mouth_psnr_db": "the small decoder, new people: PSNR of the mouth",
    "decoder.ssim": "the small decoder, new people: SSIM",
    "decoder.flicker_grey": "the small decoder, new people: static flicker",
    "decoder.cpu_ms_per_chunk": "the small decoder: a chunk of 12 frames of 256 px on a CPU",
    "decoder.h200_us_per_chunk_384px": "the small decoder: a chunk of 12 frames of 384 px on an H200",
    "run.rule": "this recording: the rule of the run",
    "run.threshold": "this recording: the gate's threshold",
    "run.language": "this recording: the language spoken, Whisper's code",
    "run.acceptance": "this recording: drafted frames that the rule lets stand",
    "run.coverage": "this recording: frames at or above the threshold",
    "run.passes_a_second": "this recording: passes of the judge a second of speech",
    "run.agreement_with_judge": "this recording: frames as the judge alone would have them",
    "run.lip_error_mm_vs_judge": "this recording: lips, error of their gap against the judge's plan",
    "run.serial_p50_ms": "this recording: serial, median",
    "run.speculative_p50_ms": "this recording: speculative, median",
    "run.sound_to_frame_p50_ms": "this recording: from sound to its frame, median",
    "run.sound_to_frame_p99_ms": "this recording: from sound to its frame, p99",
    "run.same_plan": "this recording: the plan of both pipelines is the same (1: yes)",
    "report.wall_s": "notebooks, wall time",
    "report.peak_rss_gib": "notebooks, peak memory",
    "features.rtf": "features, real-time factor",
    "features.hop_latency_ms": "features, time per 10 ms hop",
    "features.hop_latency_p95_ms": "features, time per 10 ms hop, p95",
    "features.hop_latency_p99_ms": "features, time per 10 ms hop, p99",
    "draft.accuracy": "frame accuracy, held-out prompts",
    "draft.accuracy_unseen_speaker": "frame accuracy of a draft that never heard her",
    "draft.real_speakers_accuracy": "frame accuracy, six real speakers that no fit heard",
    "draft.real_speakers_coverage_at_085": "the same: frames at or above 0.85",
    "draft.real_speakers_ece": "the same: calibration error",
    "draft.majority_accuracy": "always the commonest viseme",
    "draft.energy_accuracy": "energy threshold",
    "draft.ece": "calibration error",
    "draft.acceptance_at_085": "accepted at 0.85, truth as judge",
    "draft.coverage_at_085": "frames at or above 0.85",
    "video.frame_count_error": "frames missing or extra",
    "video.av_end_difference_ms": "sound against picture at the end",
    "video.beep_flash_offset_ms": "flash against beep",
    "acceptance.at_085": "accepted at 0.85 (±1 frame), language model as judge, recalibrated confidence",
    "acceptance.coverage_at_085": "frames at or above 0.85, recalibrated confidence",
    "acceptance.exact_greedy_at_085": "accepted at 0.85, exact rule",
    "acceptance.ece": "calibration error of the recalibrated confidence",
    "acceptance.by_draft_confidence_at_085": "accepted at 0.85 of the draft's own confidence (±1 frame)",
    "acceptance.by_draft_confidence_coverage_at_085": "frames at or above 0.85 of the draft's own confidence",
    "acceptance.mouth.at_085": "accepted at 0.85, exact on mouth shapes",
    "acceptance.mouth.passes_ratio": "passes of token by token over its own, exact on mouth shapes",
    "acceptance.mouth.lip_error_mm": "lips, mouth shapes against the judge's own plan",
    "acceptance.whole_chunks": "chunks of which nothing is rejected, exact rule",
    "acceptance.one_pass_chunks": "chunks decided in one pass, exact rule, its ears' guess first",
    "acceptance.bad_accept_bound": "accepted against truth: at most, 95 % bound",
    "reasoner.accuracy": "frame accuracy of the language model's own plan",
    "reasoner.accuracy_unseen_speaker": "the same, draft, ears and judge that never heard her",
    "reasoner.live_accuracy": "the same, live: it hears the sound alone, no words",
    "reasoner.live_gain_over_draft": "frames more that the live judge's plan has right than the draft, of all",
    "reasoner.passes_ratio": "passes of token by token over its own, its ears' guess first",
    "reasoner.passes_ratio_several_plans": "passes of token by token over its own, several plans a pass",
    "reasoner.passes_ratio_from_draft": "passes of token by token over its own, from the draft",
    "slider.redraw_p95_ms": "the slider follows within, p95",
    "sync.lip_r": "lips, generated against truth's render: r",
    "sync.av_offset_ms": "lips, generated behind truth's render",
    "sync.lip_error_mm": "lips, error of their gap",
    "sync.jitter_ratio": "jitter of the lips, of truth's",
    "sync.silence_motion_ratio": "motion in silence, of truth's in speech",
    "sync.closure_rate": "p, b and m with lips shut",
    "sync.lip_class_accuracy": "frames whose lips show what truth names",
    "sync.border_flicker_grey": "flicker in the feathered edge",
    "latent.vae_psnr_db": "the VAE alone, new people: PSNR",
    "latent.vae_mouth_psnr_db": "the VAE alone, new people: PSNR of the mouth",
    "latent.claim_r": "lips drafted from sound, not denoised, against truth: r",
    "latent.claim_lag_ms": "the same, behind truth",
    "latent.energy_only_r": "from loudness alone: r",
    "latent.basis_ceiling_r": "truth's own coefficients on the basis: r, at best",
    "latent.shuffled_r": "another sentence's sound, the control: r",
    "simulate.max_relative_error": "simulation against every measured median, at most",
    "kernel.full720p_t8_median_us": "720p, 8 slots, median",
    "kernel.full720p_t8_bandwidth_fraction": "share of the memory bandwidth",
    "kernel.graph_p99_ms": "in a CUDA graph, p99",
    "kernel.front_graph_p50_us": "causal front and latents at 384 px, a chunk of 12 frames, median",
    "kernel.front_graph_p99_us": "the same, p99",
    "kernel.sm120_max_shared_kib": "sm_120, shared memory per block (it has 99 KiB)",
    "kernel.speedup_vs_compile": "times as fast as torch.compile",
    "kernel.speedup_vs_eager": "times as fast as torch eager",
}
VARIANTS = {  # of the recording's video, as notebook 04 writes them
    "lipsync_draft.mp4": "draft alone",
    "lipsync_committed.mp4": "committed",
    "lipsync_judge.mp4": "judge alone",
}
PROFILE_NOTES = {
    "smoke": "smoke: the smallest sizes, a check that everything runs and no measurement",
    "default": "default",
    "full": "full",
}
CAPTIONS = {
    "acceptance_efficiency": (
        "Acceptance and coverage",
        "Share of frames accepted, and share of frames kept, over the confidence threshold.",
    ),
    "acceptance_strip": ("One utterance, frame by frame", "What the draft said, and what the judge made of it."),
    "draft_accuracy": ("Accuracy of the draft", "Against rules that any draft must beat, on held-out prompts."),
    "draft_calibration": (
        "Calibration",
        "Whether a confidence of 0.85 is right 85 times in 100, and what is confused.",
    ),
    "contact_sheet": (
        "Faces beside their words",
        "The middle frame of each word: generated from the draft above, truth's render below.",
    ),
    "lip_aperture": (
        "The lips over time",
        "Gap between the lips in mm, read off the generated face and off truth's render; dotted: the draft's plan.",
    ),
    "step_counts": (
        "How many steps",
        "Error of the lips, PSNR of the mouth and a chunk's time: the kernel's draft as it is, and 1, 2, 4 steps.",
    ),
    "seams_and_repair": (
        "Seams and repair",
        "Jumps at chunk borders beside truth's own; what is left of a wrong draft, by when the plan was set right.",
    ),
    "latent_claim": (
        "The claim: sound straight into Wan's latents",
        "Lips drafted by the kernel and decoded without denoising, against truth, with ceiling, rival and control.",
    ),
    "referee": ("Who deserves to judge", "Draft, ears and language model against truth, trained and unseen speakers."),
    "acceptance_chunks": (
        "What is rejected",
        "Acceptance by viseme, and how many frames of a chunk stand before the first rejection.",
    ),
    "mouth_shapes": (
        "Visemes that look alike",
        "Gap and width of every viseme's mouth on the mesh, the groups they fall into, and how far apart any two are.",
    ),
    "acceptance_rules": (
        "The rules side by side",
        "What stands of sure drafts, passes of the judge a chunk, and lip error against the judge's plan and truth.",
    ),
    "features": ("What is heard", "Waveform, log-mel, envelopes, words, encoder features and truth on one time axis."),
    "stream_latency": ("The stream's latency", "Time to compute one 10 ms hop of features, over all hops."),
    "draft_curves": (
        "How the draft came to hear everyone",
        "Right frames over the sound past a frame, minutes of training speech, and voices.",
    ),
    "draft_plan": (
        "The draft of this recording",
        "Probability of each viseme, confidence and openness, frame by frame.",
    ),
    "kernel_claim": ("The kernel against the claim", "Its time on a GPU beside the source report's 15 ms."),
    "kernel_latency": ("Kernel latency", "Cold cache, over slots and regions, against torch on the same buffers."),
    "kernel_roofline": ("Roofline", "Achieved bandwidth beside what a device copy of as many bytes reaches."),
    "kernel_versions": ("Version by version", "What each change to the kernel bought; the line is the byte floor."),
    "recording_strips": (
        "This recording, frame by frame",
        "Draft, judge, what the run's rule commits, and truth where the words are known.",
    ),
    "recording_acceptance": (
        "This recording beside the corpus",
        "Acceptance and coverage over thresholds; one recording has no interval.",
    ),
    "latency_comparison": (
        "Latency",
        "Where the time goes with and without background verification; the other regions are in the table.",
    ),
    "run_latency": (
        "How old every frame is",
        "From the sound at a frame's centre to that frame in memory, by parts: this recording, this machine.",
    ),
    "latency_gantt": (
        "Who hides behind whom",
        "Three chunks of this run, serial and under its rule: what every stage did and when.",
    ),
    "late_verdicts": ("Late verdicts", "What a rejection that comes late costs, in latency and in wrong frames."),
    "live_delivery": ("At the pace of speech", "How long after its sound each chunk of a live stream is out."),
    "latency_chips": ("Other chips", "Both pipelines by roofline scaling; all simulated."),
}
