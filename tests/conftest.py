"""Says which measurements on outside material are not run here, and where the tests would look for it."""

import logging
import os

# One thread for every process of the tests, said before torch is imported: what they compute is small, and threads that
# wait for each other crawl where anything else runs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No AMX, with which --precision auto would be bf16: figures are compared that are the same on every machine.
os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_BF16"

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no fault of the code.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_report_header(config):
    outside = {"D2ST_GOLDEN": "the larger goldens", "D2ST_SHARED_DATA": "real clips and weights"}
    return [f"{name}: {os.environ.get(name) or f'not set, {what} are not tested'}" for name, what in outside.items()]


@pytest.fixture(autouse=True)
def log_lines():
    """Show what the package logs on stderr, as the command line does, and give it to ``caplog`` as well."""
    from d2st.utils.program import shown_log

    with shown_log():
        logging.getLogger("d2st").propagate = True
        yield


@pytest.fixture(autouse=True)
def recomputed(monkeypatch):
    """Recompute adapters in the backward pass, as for inputs of full size: those of tests are small."""
    monkeypatch.setattr("d2st.layers.checkpointed.SMALL", 0)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Folder of a tiny dataset with split and backbone weights (``small.write_dataset``)."""
    from small import write_dataset

    return write_dataset(tmp_path_factory.mktemp("small"))
