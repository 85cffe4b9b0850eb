from pipelines.running.cores import available_cores


def test_cores_are_those_this_process_may_use():
    assert 1 <= available_cores() <= 4096
