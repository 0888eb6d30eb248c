"""What holds for every test: which ones run side by side, and what each leaves as it found it."""

import os

import pytest

LONGEST = ("pipeline", "conformance", "experiments", "fuzz", "faults")  # rooms to start with, so that no worker ends long after the others


def pytest_collection_modifyitems(items):
    rooms = {item: item.path.relative_to(os.path.dirname(__file__)).parts[0] for item in items}
    items.sort(key=lambda item: LONGEST.index(rooms[item]) if rooms[item] in LONGEST else len(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests share a process and its fixtures; all of conformance does, for it starts upstream once."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return "tests/conformance" if nodeid.startswith("tests/conformance/") else nodeid.split("::")[0]

    return ByFile(config, log)


@pytest.fixture(scope="module")
def scheduler():
    """Address of a dask scheduler with two workers of one thread."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as running:
        yield running.scheduler_address


@pytest.fixture(autouse=True)
def _environment_as_before():
    """Main functions called here set nnU-Net's folders for their process; the next test must not work in them."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)
