"""Figures: draw only. A table in, axes or a matplotlib figure out; units on every axis, a label on every number.

``style.save_figure`` writes PNG and CSV under one stem into ``plots/``; ``sliders`` redraw with the same functions.
Start with ``style.use_style``, ``style.save_figure``, ``acceptance.draw_acceptance``, ``latency.draw_comparison``.
"""
