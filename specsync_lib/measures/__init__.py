"""Numbers with intervals: accuracy, acceptance, sync, pictures, latency.

In: arrays by frame with the utterance that each belongs to, frames, or files of data/measurements. Out:
``intervals.Metric`` (value, low, high, n, the unit that is resampled) and tables (pandas) that figures draw.
Start with ``intervals.bootstrap_by_group``, ``acceptance.acceptance_table``, ``sync_report.sync_report``.
"""
