"""Columns: found by themselves or named, in every layout that corpora come in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finegrain.tagging import CorpusError, read_columns, write_columns

pytestmark = pytest.mark.one_backend

CONLLU = """\
# newdoc id = a
# sent_id = 1
# text = #NewYork don't sleep 10 000
1\t#NewYork\tNew York\tPROPN\tNNP\t_\t2\tnsubj\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\tVBP\t_\t4\taux\t_\t_
3\tn't\tnot\tPART\tRB\t_\t4\tadvmod\t_\t_
3.1\tsleep\tsleep\tVERB\tVB\t_\t_\t_\t0:root\t_
4\t10 000\t10000\tNUM\tCD\t_\t0\troot\t_\tSpaceAfter=No

# sent_id = 2
1\t#\t#\tSYM\t_\t_\t0\troot\t_\t_
"""
WORDS = [["#NewYork", "do", "n't", "10 000"], ["#"]]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "corpus.txt"


def read(file, text, **options):
    file.write_bytes(text.encode())
    return read_columns(file, **options)


def refused(file, text, **options):
    with pytest.raises(CorpusError) as caught:
        read(file, text, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(str(file)) in message
    return message


def test_conll_2002(file):
    text = "Wolff B-PER\n, O\nperiodista O\n\nActual O\n"
    expected = [(["Wolff", ",", "periodista"], ["B-PER", "O", "O"]), (["Actual"], ["O"])]
    assert read(file, text) == expected
    # Published in Latin-1: the error says what to do.
    file.write_bytes("España B-LOC\n".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"0xf1 at offset 4, in line 1.*convert the file"):
        read_columns(file)


@pytest.mark.parametrize("mark", ["-DOCSTART- -X- -X- O", "-DOCSTART- -X- O O", "-DOCSTART-"])
def test_conll_2003(file, mark):
    text = f"{mark}\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\n\n{mark}\n\nPeter NNP I-NP I-PER\n"
    assert read(file, text) == [(["EU", "rejects"], ["I-ORG", "O"]), (["Peter"], ["I-PER"])]
    assert read(file, text, tag=1)[0][1] == ["NNP", "VBZ"]
    assert read(file, text, word=1, tag=-2)[0] == (["NNP", "VBZ"], ["I-NP", "I-VP"])


def test_a_document_mark_ends_a_sentence(file):
    text = "a\tX\n-DOCSTART-\tO\nb\tY\n"
    assert read(file, text) == [(["a"], ["X"]), (["b"], ["Y"])]
    assert "empty file" in refused(file, "-DOCSTART- -X- O\n\n")


def test_conllu(file):
    tags = [["PROPN", "AUX", "PART", "NUM"], ["SYM"]]
    assert read(file, CONLLU) == list(zip(WORDS, tags, strict=True))
    for tag in ("xpos", "XPOS", 4, -6):
        assert [t for _, t in read(file, CONLLU, tag=tag)] == [["NNP", "VBP", "RB", "CD"], ["_"]]
    assert read(file, CONLLU, word="lemma")[0][0] == ["New York", "do", "not", "10000"]


def test_conllu_by_blanks(file):
    """Some copies have lost their TABs; the numbers of the words are still no words."""
    text = CONLLU.replace("New York", "NewYork").replace("10 000", "10000").replace("\t", "  ")
    assert read(file, text)[0] == (
        ["#NewYork", "do", "n't", "10000"],
        ["PROPN", "AUX", "PART", "NUM"],
    )


def test_conllu_plus(file):
    text = "# global.columns = ID FORM UPOS PARSEME:MWE\n# a\n1\tin\tADP\t1:X\n2\tvain\tADJ\t1\n"
    assert read(file, text) == [(["in", "vain"], ["ADP", "ADJ"])]
    assert read(file, text, tag="parseme:mwe")[0][1] == ["1:X", "1"]
    assert "columns named id, form, upos, parseme:mwe" in refused(file, text, tag="xpos")


def test_conllu_incomplete(file):
    text = CONLLU + "2\tword\tword\tNOUN\n"
    assert "10 columns separated by TAB" in refused(file, text)
    assert "line 13 with '2\\tword" in refused(file, text)
    nothing = "1\ta\t_\t_\tX\t_\t0\t_\t_\t_\n"
    assert "UPOS" in refused(file, nothing)
    assert read(file, nothing, tag="xpos") == [(["a"], ["X"])]


def test_ten_columns_are_not_always_conllu(file):
    """Word by word with nine features: no numbers in the first column."""
    line = "\t".join(["Ada", *"abcdefgh", "B-PER"])
    assert read(file, f"{line}\n{line}\n") == [(["Ada", "Ada"], ["B-PER", "B-PER"])]


def test_a_hash_is_a_word(file):
    """Tweets: no line with a tag is taken for a comment."""
    text = "#nowplaying\tO\n#\tO\n\n# 1\tO\n#ny\tB-LOC\n"
    expected = [(["#nowplaying", "#"], ["O", "O"]), (["# 1", "#ny"], ["O", "B-LOC"])]
    assert read(file, text) == expected
    assert read(file, "# O\n1 O\n\n# O\n") == [(["#", "1"], ["O", "O"]), (["#"], ["O"])]
    # Each sentence begins with it, but with a tag that other words have, too.
    assert read(file, "# O\n1 O\n\n# O\nb X\n")[1] == (["#", "b"], ["O", "X"])


def test_comments_before_the_words_where_tab_separates(file):
    """As in Universal NER: no TAB in them, words after them."""
    text = "# id = 1\n# text = a b\n1\ta\tO\n2\tb\tB-X\n\n1\tc\tO\n"
    assert read(file, text, word=1) == [(["a", "b"], ["O", "B-X"]), (["c"], ["O"])]
    assert "line 2 with '# text'" in refused(file, "a\tX\n# text\nb\tY\n")
    assert "line 3 with '# text'" in refused(file, "a\tX\n\n# text\n")


def test_comments_before_each_sentence_where_blanks_separate(file):
    """As in MultiCoNER: each sentence has one, which ends in no tag."""
    text = "# id 1f\tdomain=en\na _ _ O\n# _ _ O\n\n# id 2f\tdomain=en\nb _ _ B-X\n"
    assert read(file, text) == [(["a", "#"], ["O", "O"]), (["b"], ["B-X"])]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffa\tX\r\nb\tY\r\n\r\nc\tX",
        "a\tX \nb \tY\n\u3000\nc\tX\n",
        " a\tX\nb\t Y\n \t \n\n\nc\tX\n\n\n",
        "a\tX\t\nb\tY\t\n\nc\tX\t\n",
        "\n\na  X\nb     Y  \n\u00a0\nc X",
        "a X\t\nb Y\n\nc X\n",
    ],
)
def test_odd_blanks(file, text):
    assert read(file, text) == [(["a", "b"], ["X", "Y"]), (["c"], ["X"])]


def test_an_empty_last_column_on_one_line(file):
    """It is an error, and not a shorter line: the tag may have been forgotten."""
    assert "line 2" in refused(file, "a\tN\tX\nb\tN\t\n")


def test_blanks_within_words(file):
    assert read(file, "New York\tB-LOC\n10\u00a0000\tO\n")[0][0] == ["New York", "10\u00a0000"]
    assert read(file, "10\u00a0000 NUM O\n")[0] == (["10\u00a0000"], ["O"])
    assert read(file, "同样\u3000O\n")[0] == (["同样"], ["O"])


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"tag": 2}, ["column 0 and a tag in column 2", "line 2 with 'b\\tY'"]),
        ({"word": -3}, ["line 2 with 'b\\tY'"]),
        ({"tag": "upos"}, ["tag='upos' and columns without names", "column's number"]),
    ],
)
def test_columns_that_are_not_there(file, options, parts):
    message = refused(file, "a\tX\tP\nb\tY\n", **options)
    assert all(part in message for part in parts)


@pytest.mark.parametrize("column", [1.0, True, [1]])
def test_columns_that_are_none(file, column):
    with pytest.raises(TypeError, match="`tag` should be a column's number"):
        read(file, "a\tX\n", tag=column)


texts = st.text(min_size=1, max_size=4).filter(lambda t: t.strip() == t and not {*t} & {*"\t\r\n"})
sentences = st.lists(st.tuples(texts, texts), min_size=1, max_size=4).map(
    lambda rows: tuple(map(list, zip(*rows, strict=True)))
)


@given(st.lists(sentences, min_size=1, max_size=4))
def test_reading_inverts_writing(tmp_path_factory, corpus):
    path = tmp_path_factory.getbasetemp() / "columns.tsv"
    write_columns(path, corpus)
    assert read_columns(path) == corpus


@pytest.mark.parametrize(
    "sentence",
    [
        (["a", "b"], ["X"]),
        ("ab", ["X", "Y"]),
        (["a"], "X"),
        (["a", ""], ["X", "Y"]),
        (["a"], [" X"]),
        (["a\tb"], ["X"]),
        (["a"], ["X\nY"]),
        (["-DOCSTART-"], ["O"]),
        ([1], ["X"]),
    ],
)
def test_what_could_not_be_read_back(file, sentence):
    with pytest.raises(ValueError, match="sentence 2"):
        write_columns(file, [(["a"], ["X"]), sentence])
    assert not list(file.parent.iterdir())


def test_writing_where_no_file_can_be(tmp_path):
    with pytest.raises(CorpusError, match="create its folder"):
        write_columns(tmp_path / "no" / "file", [(["a"], ["X"])])


def test_a_sentence_without_a_word_becomes_an_empty_line(file):
    write_columns(file, [([], []), (["a"], ["X"])])
    assert file.read_bytes() == b"\na\tX\n\n"
