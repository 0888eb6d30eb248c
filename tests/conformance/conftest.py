"""One bench for all conformance tests: data are written and upstream is started once."""

import pytest
import torch

from tests.conformance.bench import THREADS, Bench, reference_python


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    if not reference_python().exists():
        pytest.skip("no reference environment: `bash experiments/run_conformance.sh` builds it, or set NNUNET_UPSTREAM_PYTHON")
    threads = torch.get_num_threads()
    torch.set_num_threads(int(THREADS))
    bench = Bench(tmp_path_factory.mktemp("conformance"), reduced=True)
    yield bench
    bench.upstream.close()
    torch.set_num_threads(threads)
