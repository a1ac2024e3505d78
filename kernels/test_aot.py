"""The kernels fit the chips they are meant for, proven by compiling: no GPU needed."""

import pytest

from kernels.aot import CHIPS, aot_table


@pytest.fixture(scope="module")
def table():
    return aot_table()


def test_every_config_compiles_for_every_chip(table):
    assert set(table.arch) == set(CHIPS)
    assert table.groupby("arch").size().nunique() == 1


def test_products_run_on_the_tensor_cores(table):
    products = table[table.kernel.str.startswith(("draft", "latents"))]
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
    latents = table[table.kernel == "latents"]
    assert (latents.early_launch == latents.config.str.contains("early")).all()
