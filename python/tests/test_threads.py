import threading

import numpy

import lacuna
from reference import check, visible


def test_threads_share_planners(inputs):
    """8 threads, one planner: each on its own stream, with shapes of its own and shared ones."""
    plan, window = (
        lacuna.S2(block_size=16, local_blocks=2, vertical_stride=3),
        lacuna.Blocks(numpy.tri(5, dtype=int), 16, 16),
    )
    problems = []

    def work(index):
        try:
            given = inputs((1, 2, 80, 64), (1, 2, 80, 64), seed=index)
            alone = lacuna.attention(*given.arrays, causal=True, plan=lacuna.S2(16, 2, 3))
            for _ in range(5):
                assert (lacuna.attention(*given.arrays, causal=True, plan=plan) == alone).all()
                out = lacuna.attention(*given.arrays, causal=True, plan=window)
                check(out, *given.values, visible(80, 80, True), "f16")
                try:
                    lacuna.attention(given.arrays[0], given.arrays[1], given.arrays[2][:, :, : index + 1])
                except lacuna.InvalidArgument as error:
                    assert f"got [1, 2, {index + 1}, 64]" in str(error)
                else:
                    raise AssertionError("a wrong shape was served")
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
