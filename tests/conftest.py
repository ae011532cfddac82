"""Says which measurements on outside material are not run here, and where the tests would look for it."""

import os

import pytest


def pytest_report_header(config):
    outside = {"D2ST_GOLDEN": "the larger goldens", "D2ST_SHARED_DATA": "real clips and weights"}
    return [f"{name}: {os.environ.get(name) or f'not set, {what} are not tested'}" for name, what in outside.items()]


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Folder of a tiny dataset with split and backbone weights (``small.write_dataset``)."""
    from small import write_dataset

    return write_dataset(tmp_path_factory.mktemp("small"))
