"""A small folder built, killed and opened again, in real processes."""

from eval import scale


def test_a_folder_is_built_killed_and_opened_again(tmp_path):
    (mark,) = scale._killed_at_the_end(tmp_path / "data", tmp_path, [30])
    assert mark.chunks >= 30
    assert mark.chunks > mark.documents > 0
    assert min(mark.searches) > 0
    assert set(mark.disk) >= {"catalog.sqlite", "objects", "vectors"}
    start = scale._in_a_process(tmp_path / "data", tmp_path, "a kill")
    assert start.findings == []
    assert start.first_search > 0
    assert scale._way([mark]).row_count == scale._starts([start]).row_count == 1


def test_a_text_has_the_same_random_vector_each_time():
    first, again = (scale.RandomVectors().encode(["one", "two"], max_tokens=9) for _ in range(2))
    assert (first == again).all()
    assert abs(first[0] @ first[1]) < 0.3  # others are far away
