from eval.lines import append, take_up


def test_what_a_kill_tore_is_cut_off_and_the_next_row_begins_a_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert take_up(path) == []
    append(path, {"question": "q1", "text": "a line\u2028and another"})
    with path.open("a") as file:
        file.write('{"question": "q2", "te')
    assert [row["question"] for row in take_up(path)] == ["q1"]
    append(path, {"question": "q3"})
    assert [row["question"] for row in take_up(path)] == ["q1", "q3"]


def test_one_key_of_each_row_is_enough_and_the_folder_is_made(tmp_path):
    path = tmp_path / "pools" / "rows.jsonl"
    assert take_up(path, only="question") == []
    append(path, {"question": "q1", "text": "long"})
    assert take_up(path, only="question") == ["q1"]
