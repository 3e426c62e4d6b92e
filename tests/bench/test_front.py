"""What is compared are medians, and processor time of whole processes."""

import os
import threading

from bench.front import Cell, median, processor_seconds


def test_a_median_is_one_of_each_figure():
    cells = [Cell(3, 1, 9, 5, 1, 0.5), Cell(1, 2, 8, 6, 1, 0.4), Cell(2, 3, 7, 4, 1, 0.9)]
    assert median(cells) == Cell(2, 2, 8, 5, 1, 0.5)


def test_the_time_of_all_threads_counts():
    done, stop = threading.Event(), threading.Event()

    def work():
        sum(range(3_000_000))
        done.set()
        stop.wait()

    before = processor_seconds(os.getpid())
    thread = threading.Thread(target=work)
    thread.start()
    done.wait()
    spent = processor_seconds(os.getpid()) - before
    stop.set()
    thread.join()
    assert spent > 0.005
