import pytest

from rag.errors import InvalidInput
from rag.sampling import Sampling

LIMIT = 512


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=2, top_p=1, max_new_tokens=LIMIT, do_sample=True, seed=2**32 - 1),
        Sampling(temperature=0.01, top_p=0.01, max_new_tokens=1, seed=0),
        Sampling(temperature=0, do_sample=False),
        Sampling(stop=("a", "b", "c", "x" * 100)),
    ],
)
def test_values_in_range_pass(sampling):
    sampling.validate(LIMIT)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(temperature=2.1), "temperature must be a number above 0 and at most 2"),
        (Sampling(temperature=-0.1), "temperature must be"),
        (Sampling(temperature=float("nan")), "temperature must be"),
        (Sampling(temperature=float("inf"), do_sample=False), "temperature must be"),
        (Sampling(temperature=True), "temperature must be"),
        (Sampling(temperature="1"), "temperature must be"),
        (Sampling(top_p=0), "top_p must be a number above 0 and at most 1"),
        (Sampling(top_p=1.01), "top_p must be"),
        (Sampling(top_p=float("nan")), "top_p must be"),
        (Sampling(max_new_tokens=0), "max_new_tokens must be a whole number from 1 to 512"),
        (Sampling(max_new_tokens=513), "max_new_tokens must be a whole number from 1 to 512"),
        (Sampling(max_new_tokens=3.0), "max_new_tokens must be"),
        (Sampling(max_new_tokens=True), "max_new_tokens must be"),
        (Sampling(seed=-1), "seed must be a whole number from 0 to 4294967295"),
        (Sampling(seed=2**32), "seed must be"),
        (Sampling(do_sample=1), "do_sample must be true or false"),
        (Sampling(stop=("a",) * 5), "stop must be a list of at most 4 strings"),
        (Sampling(stop="end"), "stop must be a list"),
        (Sampling(stop=("",)), "stop strings must have 1 to 100 characters"),
        (Sampling(stop=("x" * 101,)), "stop strings must have 1 to 100 characters"),
        (Sampling(stop=(1,)), "stop strings must"),
    ],
)
def test_what_is_out_of_range_is_named_with_its_range(sampling, message):
    with pytest.raises(InvalidInput, match=message):
        sampling.validate(LIMIT)


@pytest.mark.parametrize("do_sample", [True, None])
def test_temperature_zero_points_to_do_sample(do_sample):
    with pytest.raises(InvalidInput, match="set do_sample to false"):
        Sampling(temperature=0.0, do_sample=do_sample).validate(LIMIT)
