import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finegrain.tagging import CorpusError, read_columns, read_segmented, write_segmented

pytestmark = pytest.mark.one_backend

READERS = [read_segmented, read_columns]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "corpus.txt"


def message_of(reader, path):
    with pytest.raises(CorpusError) as caught:
        reader(path)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(str(path)) in message
    assert all(part in message for part in ("expected", "Received: ", "Cure: "))
    return message


def test_sentences_a_line_words_by_blanks(file):
    file.write_text("the cat  sat\n\n \t\non a mat", encoding="utf-8")
    assert read_segmented(file) == [["the", "cat", "sat"], ["on", "a", "mat"]]


def test_accepts_a_path_as_text(file):
    file.write_text("the cat\n", encoding="utf-8")
    assert read_segmented(str(file)) == [["the", "cat"]]


def test_any_unicode_white_space_separates_words_but_ends_no_line(file):
    text = "同样\u3000，\u00a0施力\u2028的\u0085大小\x0b不同\n"
    file.write_text(text, encoding="utf-8")
    assert read_segmented(file) == [["同样", "，", "施力", "的", "大小", "不同"]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends(file, end):
    file.write_bytes(f"a b{end}{end}c d{end}".encode())
    assert read_segmented(file) == [["a", "b"], ["c", "d"]]
    file.write_bytes(f"a\tX{end}{end}c\tY{end}".encode())
    assert read_columns(file) == [(["a"], ["X"]), (["c"], ["Y"])]


def test_byte_order_mark_is_no_part_of_the_first_word(file):
    file.write_bytes(b"\xef\xbb\xbfa b\n")
    assert read_segmented(file) == [["a", "b"]]


def test_single_words_are_fine_beside_longer_sentences(file):
    file.write_text("Yes\na b\n", encoding="utf-8")
    assert read_segmented(file) == [["Yes"], ["a", "b"]]


def test_unsegmented_text(file):
    file.write_text("thecatsat\n\nonamat\n", encoding="utf-8")
    message = message_of(read_segmented, file)
    assert "one word on every line, 2 in all" in message
    assert "put a blank between the words" in message


@pytest.mark.parametrize("reader", READERS)
def test_missing_file(reader, file):
    assert "no such file" in message_of(reader, file)


@pytest.mark.parametrize("reader", READERS)
def test_folder(reader, tmp_path):
    assert "a folder" in message_of(reader, tmp_path)


@pytest.mark.parametrize("reader", READERS)
def test_unreadable_file(reader, file, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    message = message_of(reader, file)
    assert "Permission denied" in message
    assert "permission to read it" in message


@pytest.mark.parametrize("reader", READERS)
def test_path_through_a_file(reader, file):
    file.write_text("a b\n", encoding="utf-8")
    assert "Not a directory" in message_of(reader, file / "corpus.txt")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", ["", "\n\n", " \t \r\n\u3000\n", "\ufeff"])
def test_file_without_a_word(reader, text, file):
    file.write_text(text, encoding="utf-8", newline="")
    assert "empty file or nothing but white space" in message_of(reader, file)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_bytes_that_are_not_utf8(reader, mark, end, file):
    before = mark + f"é\tX{end}{end}f".encode()
    file.write_bytes(before + b"\xe9\tX\n")
    message = message_of(reader, file)
    assert f"byte 0xe9 at offset {len(before)}, in line 3" in message
    assert "convert the file to UTF-8" in message


def test_columns(file):
    file.write_text("\nAda\tNNP\tB-PER\nwrote\tVBD\tO\n\n\nIt\tPRP\tO\n", encoding="utf-8")
    assert read_columns(file) == [(["Ada", "wrote"], ["B-PER", "O"]), (["It"], ["O"])]


def test_columns_without_a_last_line_end(file):
    file.write_text("Ada\tB-PER\nwrote\tO", encoding="utf-8")
    assert read_columns(file) == [(["Ada", "wrote"], ["B-PER", "O"])]


def test_tokens_may_hold_blanks_where_tab_separates(file):
    file.write_text("New York\tB-LOC\n#\tO\n", encoding="utf-8")
    assert read_columns(file) == [(["New York", "#"], ["B-LOC", "O"])]


def test_columns_by_blanks_in_a_file_without_tab(file):
    file.write_text("Ada NNP  B-PER\nwrote VBD O\n", encoding="utf-8")
    assert read_columns(file) == [(["Ada", "wrote"], ["B-PER", "O"])]


@pytest.mark.parametrize("line", ["wrote", "# text = Ada wrote", "\tO", "wrote\t", " \tO"])
def test_incomplete_columns_name_the_line(file, line):
    file.write_text(f"Ada\tB-PER\n\n{line}\n", encoding="utf-8")
    message = message_of(read_columns, file)
    assert f"line 3 with {line!r}" in message
    assert "complete or remove line 3" in message


def test_long_lines_are_shortened_in_the_message(file):
    file.write_text("x" * 10_000 + "\n", encoding="utf-8")
    assert len(message_of(read_columns, file).replace(str(file), "")) < 300


words = st.text(min_size=1, max_size=5).filter(
    lambda word: word.split() == [word] and word.isprintable()
)


@given(sentences=st.lists(st.lists(words, min_size=2, max_size=5), min_size=1, max_size=5))
def test_reading_inverts_writing(tmp_path_factory, sentences):
    path = tmp_path_factory.getbasetemp() / "round-trip.txt"
    write_segmented(path, sentences)
    assert read_segmented(path) == sentences


def test_sentence_without_a_word_becomes_an_empty_line(file):
    write_segmented(file, [["a", "b"], [], ["c"]])
    assert file.read_bytes() == b"a b\n\nc\n"


@pytest.mark.parametrize("sentence", [["a", ""], ["a b"], ["a", "b\n"], "ab", ["\u3000"]])
def test_words_that_could_not_be_read_back(file, sentence):
    with pytest.raises(ValueError, match=r"no white space in them.*sentence 2 is"):
        write_segmented(file, [["fine"], sentence])
    assert not list(file.parent.iterdir())


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(file):
    def interrupted():
        yield ["new", "words"]
        raise KeyboardInterrupt

    write_segmented(file, [["old", "words"]])
    with pytest.raises(KeyboardInterrupt):
        write_segmented(file, interrupted())
    assert file.read_text(encoding="utf-8") == "old words\n"
    assert list(file.parent.iterdir()) == [file]


def test_writing_replaces_what_a_link_points_to(file, tmp_path):
    link = tmp_path / "link.txt"
    write_segmented(file, [["old"]])
    link.symlink_to(file)
    write_segmented(link, [["new"]])
    assert link.is_symlink()
    assert file.read_text(encoding="utf-8") == "new\n"


def test_writing_where_no_file_can_be(file, tmp_path):
    for path in (tmp_path / "no" / "corpus.txt", file / "corpus.txt", tmp_path):
        file.write_text("a b\n", encoding="utf-8")
        assert "can be written" in message_of(lambda path: write_segmented(path, [["a"]]), path)
    assert list(tmp_path.iterdir()) == [file]


def test_an_error_survives_pickling(file):
    with pytest.raises(CorpusError) as caught:
        read_segmented(file)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
