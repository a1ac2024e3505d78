"""The kernels fit the chips they are meant for, proven by compiling: no GPU needed."""

import pytest

from kernels.aot import CHIPS, aot_table

HOPPER_SHARED_KIB, REGISTERS = 228, 65_536  # of a multiprocessor; each block's kibibyte for the system comes off


@pytest.fixture(scope="module")
def table():
    return aot_table()


def test_every_config_compiles_for_every_chip(table):
    assert set(table.arch) == set(CHIPS)
    assert table.groupby("arch").size().nunique() == 1


def test_products_run_on_the_tensor_cores(table):
    products = table[table.kernel.str.startswith(("draft", "latents", "front"))]
    assert (products.matrix_count > 0).all()
    tall = products[products.config.str.endswith("swap") & (products.kernel == "latents") & (products.arch == 90)]
    assert len(tall) and (tall.matrix == "wgmma.mma_async").all()


def test_shared_memory_fits_the_chip(table):
    assert (table.shared_kib <= table.shared_limit_kib).all()
    assert table.shared_kib[table.arch == 120].max() <= 99


def test_nothing_spills(table):
    assert (table.stack_bytes == 0).all(), table[table.stack_bytes > 0].to_string()
    assert table.registers.between(1, 255).all()


def test_the_second_launch_starts_early_where_it_is_asked_to(table):
    latents = table[table.kernel.str.startswith("latents")]
    assert (latents.early_launch == latents.config.str.contains("early")).all()


def test_streaming_kernels_ask_for_many_tiles_before_they_wait(table):
    streamed = table[table.kernel == "latents, streamed"]
    assert len(streamed) and (streamed.copies_ahead >= 3).all(), streamed.to_string()
    assert (table.copies_ahead[table.kernel == "latents"] == 0).all()


@pytest.mark.parametrize(("streams", "config"), [(2, "d64w4"), (1, "d128w4")])
def test_streams_of_eight_slots_share_a_multiprocessor_with_launch_1(table, streams, config):
    """Else launch 2 could not start its loads before launch 1 is done. Wide tiles leave registers for one of two."""
    hopper = table[(table.arch == 90) & table.config.str.contains(f"r16h16-{config}.*-stream")]
    drafts = hopper[hopper.kernel == "draft"].set_index("config")
    launched = hopper[(hopper.kernel == "latents, streamed") & (hopper.slots == 8)]
    assert len(launched)
    for row in launched.itertuples():
        draft = drafts.loc[row.config]
        assert 32 * (streams * row.warps * row.registers + draft.warps * draft.registers) <= REGISTERS
        assert streams * (row.shared_kib + 1) + draft.shared_kib + 1 <= HOPPER_SHARED_KIB


def test_two_streams_share_a_multiprocessor(table):
    """As many as ProjectionPlan launches on Hopper: a program that waits for a place would stream its tiles late."""
    streamed = table[(table.arch == 90) & (table.kernel == "latents, streamed")]
    assert (2 * 32 * streamed.warps * streamed.registers <= REGISTERS).all()
    assert (2 * (streamed.shared_kib + 1) <= HOPPER_SHARED_KIB).all()
