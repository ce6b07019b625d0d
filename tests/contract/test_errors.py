import pytest

from sslkit.contract.errors import DataError, OptionError, printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain é 漢 'quoted'", "plain é 漢 'quoted'"),
        ("two\nlines\r\n", r"two\nlines\r\n"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("caf\udce9", r"caf\udce9"),  # what os.fsdecode makes of a byte that is no UTF-8
        ("\u2028\u202e", r"\u2028\u202e"),
    ],
)
def test_a_message_is_one_line_in_any_encoding(text: str, expected: str):
    assert printable(text) == expected
    assert str(DataError(f"{text}: damaged", fix="mend it")) == f"{expected}: damaged; mend it"
    str(OptionError("root", text)).encode()
