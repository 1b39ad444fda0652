import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.parse.decode import decode, is_binary

GERMAN = "Die Größe der Räume übertraf alle Erwartungen, sagte Frau Müller aus Köln."


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
        (codecs.BOM_UTF32_BE, "utf-32-be"),
    ],
)
def test_a_byte_order_mark_wins(mark, encoding):
    decoded = decode(mark + GERMAN.encode(encoding), declared="cp1252")
    assert decoded.text == GERMAN
    assert decoded.warnings == ()


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", [GERMAN, "Маяк построен в 1811 году, и он стоит до сих пор.\n"])
def test_wide_encodings_without_a_mark(encoding, text):
    data = text.encode(encoding)
    assert decode(data).text == text
    assert not is_binary(data)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", GERMAN),
        ("cp1252", "café – “naïve” résumé"),
        ("cp1250", "Zażółć gęślą jaźń"),
        ("cp1251", "Привет, как дела? Сегодня хорошая погода."),
        ("cp932", "名前,年齢,住所\r\n佐藤太郎,30,東京"),
        ("euc_jp", "日本語の文章です。今日は天気がいいです。"),
        ("gb18030", "你好，世界。今天天气很好，我们去公园。"),
        ("big5", "繁體中文測試文件"),
        ("cp949", "안녕하세요 세계, 오늘은 날씨가 좋습니다."),
    ],
)
def test_legacy_encodings_are_guessed_and_said(encoding, text):
    decoded = decode(text.encode(encoding))
    assert decoded.text == text
    assert decoded.warnings == (f"The encoding was guessed to be {decoded.encoding}.",)


def test_utf8_is_not_doubted():
    assert decode(GERMAN.encode(), declared="iso-8859-1").text == GERMAN


def test_a_declared_charset_is_believed_when_it_fits():
    data = "Ελλάδα".encode("cp1253")
    assert decode(data, declared="windows-1253").text == "Ελλάδα"


def test_the_web_means_windows_1252_by_latin_1():
    assert decode(b"\x80 15,50 \xe9", declared="ISO-8859-1").text == "€ 15,50 é"


@pytest.mark.parametrize("label", ["no-such-charset", "idna", "hex", "utf-8"])
def test_a_wrong_label_is_no_obstacle(label):
    assert decode(GERMAN.encode("cp1252"), declared=label).text == GERMAN


def test_stray_bytes_in_utf8_do_not_garble_the_rest():
    decoded = decode((GERMAN * 5).encode() + b"\xff")
    assert decoded.text == GERMAN * 5 + "\ufffd"
    assert decoded.warnings == ("1 characters could not be decoded as utf-8.",)


@pytest.mark.parametrize("data", [bytes(range(256)) * 4, b"\x00\x01\x02\x03" * 50, b"a\x00b"])
def test_binary_data_is_told_from_text(data):
    assert is_binary(data)


@pytest.mark.parametrize(
    "data", [b"", b"plain", GERMAN.encode("cp1252"), "日本".encode("iso2022_jp")]
)
def test_text_is_not_binary(data):
    assert not is_binary(data)


@given(st.binary(max_size=200))
def test_anything_decodes(data):
    assert isinstance(decode(data).text, str)


@given(st.text(min_size=1))
def test_utf8_round_trips(text):
    data = text.encode()
    if b"\x00" not in data and not text.startswith("\ufeff"):
        assert decode(data).text == text
