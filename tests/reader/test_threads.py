"""One thread for products of matrices, while it is asked for."""

import threading

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from finegrain_reader import threads
from finegrain_reader.threads import one_thread

pytestmark = pytest.mark.one_backend


def numbers():
    """How many threads the libraries of products have."""
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_it_ends():
    """After an error as well."""
    with threadpool_limits(2, user_api="blas"):
        with one_thread():
            assert numbers() == {1}
        assert numbers() == {2}
        with pytest.raises(KeyError), one_thread():
            raise KeyError
        assert numbers() == {2}


def test_two_at_a_time():
    """Whoever begins and ends first, all is as before when both have ended."""
    before, steps = numbers(), threading.Barrier(2)

    def first():
        with one_thread():
            assert numbers() == {1}
            steps.wait()
            steps.wait()
        steps.wait()

    def second():
        steps.wait()
        with one_thread():
            steps.wait()
            steps.wait()

    workers = [threading.Thread(target=work) for work in (first, second)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert numbers() == before


def test_without_the_package(monkeypatch):
    """Then products have the threads that they have."""
    monkeypatch.setattr(threads, "_controller", lambda: None)
    with threadpool_limits(2, user_api="blas"), one_thread():
        assert numbers() == {2}
