import pytest

from pipelines.scoring.plan import Plan, to_text


@pytest.mark.parametrize(
    ("workers", "per_gpu", "cpus", "needed", "here", "wanted"),
    [
        (2, 1, 8, 1, "2 GPUs", "1 such GPU"),
        (4, 2, 4, 8, "4 processes of 1/2 GPU", "8 such processes of 1/2 GPU"),
        (1, 0, 2, 3, "1 process of 2 CPU cores", "3 such processes of 2 CPU cores"),
    ],
)
def test_a_plan_says_what_its_processes_are(workers: int, per_gpu: int, cpus: int, needed: int, here: str, wanted: str):
    plan = Plan(
        images=1000,
        sample=100,
        images_per_second=10.0,
        workers=workers,
        per_gpu=per_gpu,
        cpus=cpus,
        seconds=100.0,
        within=50.0,
        needed=needed,
    )
    assert f"here with {here}, by a sample" in to_text(plan)
    assert to_text(plan).endswith(f"Within 50 seconds: {wanted}.")
