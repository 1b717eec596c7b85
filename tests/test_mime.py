"""From the bytes of a message to its subject and text."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta, timezone

import pytest

from mailtriage.errors import InvalidMail
from mailtriage.examples import Example
from mailtriage.mail import Email
from mailtriage.mime import decode_words, read_message

TEXT = "Grüße, ich möchte 5.000 € umbuchen."


def message(headers: str, body: bytes = b"Text\n") -> bytes:
    return headers.encode("utf-8") + b"\n\n" + body


def body_of(data: bytes) -> str:
    return read_message(data, "fallback").mail.body


def outcome(data: bytes) -> str:
    try:
        read_message(data, "x")
    except InvalidMail as error:
        return error.code
    return "read"


def multipart(kind: str, *parts: bytes, more: str = "") -> bytes:
    joined = b"".join(b"--rand\r\n" + part + b"\r\n" for part in parts)
    return f"Content-Type: multipart/{kind}; boundary=rand{more}\r\n\r\n".encode() + joined + b"--rand--\r\n"


def part(kind: str, text: str, more: str = "") -> bytes:
    return f"Content-Type: {kind}; charset=utf-8\r\n{more}\r\n".encode() + text.encode()


PLAIN = part("text/plain", TEXT)
HTML = part("text/html", f"<p>{TEXT}</p>")


def test_id_subject_and_date_come_from_the_headers() -> None:
    data = message(
        "Message-ID: <abc@example.org>\nDate: Tue, 12 Mar 2024 10:11:12 +0100\n"
        "Subject: =?utf-8?Q?Depot=C3=BCbertrag_aus_M=C3?=\n =?utf-8?Q?=BCnchen?= bitte"
    )

    mail = read_message(data, "datei.eml").mail

    assert mail.id == "abc@example.org"
    assert mail.received_at == datetime(2024, 3, 12, 10, 11, 12, tzinfo=timezone(timedelta(hours=1)))
    assert mail.subject == "Depotübertrag aus München bitte"


@pytest.mark.parametrize(
    ("headers", "thread"),
    [
        ("", None),
        ("Message-ID: <own@b.example>\n", "own@b.example"),
        ("Message-ID: <own@b.example>\nIn-Reply-To: <asked@a.example>\n", "asked@a.example"),
        ("In-Reply-To: <last@a.example>\nReferences: <first@a.example>\n\t<last@a.example>\n", "first@a.example"),
        ("Message-ID: <own@b.example>\nReferences: damaged\nIn-Reply-To: <asked@a.example>\n", "asked@a.example"),
        ("Message-ID: <own@b.example>\nIn-Reply-To: your mail of Monday\n", "own@b.example"),
        ("References: =?unicode_escape?Q?<\\ud83d@a.example>?=\n", "?@a.example"),
    ],
)
def test_a_thread_is_named_by_the_mail_that_it_began_with(headers: str, thread: str | None) -> None:
    mail = read_message(message(f"{headers}Subject: x"), "datei.eml").mail

    assert mail.thread_id == thread


@pytest.mark.parametrize("date", ["", "Date: gestern\n", "Date: Tue, 99 Foo 2024 99:99:99\n"])
def test_without_message_id_and_with_a_broken_date_the_mail_is_still_read(date: str) -> None:
    mail = read_message(message(f"{date}Subject: x"), "datei.eml").mail

    assert (mail.id, mail.received_at, mail.body) == ("datei.eml", None, "Text\n")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("=?iso-8859-1?q?Gr=FC=DFe?=", "Grüße"),
        ("=?utf-8?b?R3LDvMOfZQ==?=", "Grüße"),
        ("=?utf-8?b?R3LDvMOfZQ?=", "Grüße"),
        ("=?unbekannt?q?Gr=FC=DFe?=", "Grüße"),
        ("Re: =?utf-8?q?a?= =?utf-8?q?b?= c", "Re: ab c"),
        ("=?utf-8?q?offen", "=?utf-8?q?offen"),
        ("=?utf-8?b?####?=", ""),
    ],
)
def test_encoded_words(raw: str, expected: str) -> None:
    assert decode_words(raw) == expected


@pytest.mark.parametrize("charset", ["utf-8", "latin-1", "cp1252"])
def test_a_raw_subject_is_guessed(charset: str) -> None:
    data = b"Subject: " + "Grüße".encode(charset) + b"\n\nText"

    assert read_message(data, "x").mail.subject == "Grüße"


@pytest.mark.parametrize(
    ("declared", "actual"),
    [
        ("utf-8", "utf-8"),
        ("iso-8859-1", "cp1252"),
        ("windows-1252", "cp1252"),
        ("iso-8859-15", "iso-8859-15"),
        ("us-ascii", "utf-8"),
        ("utf-8", "cp1252"),
        ("x-unknown", "utf-8"),
        ("rot13", "utf-8"),
        ("utf-16", "utf-16"),
        ("", "cp1252"),
    ],
)
def test_charsets_are_read_as_declared_or_guessed(declared: str, actual: str) -> None:
    encoded = base64.encodebytes(TEXT.encode(actual))
    parameter = f"; charset={declared}" if declared else ""
    data = message(f"Content-Type: text/plain{parameter}\nContent-Transfer-Encoding: base64", encoded)

    assert body_of(data) == TEXT


def test_quoted_printable_joins_soft_line_breaks() -> None:
    data = message(
        "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable",
        b"Gr=C3=BC=C3=9Fe aus M=\nuenchen =3D gut =XX\n",
    )

    assert body_of(data) == "Grüße aus Muenchen = gut =XX\n"


def test_format_flowed_is_joined_again_by_quote_depth() -> None:
    data = message(
        "Content-Type: text/plain; charset=utf-8; format=flowed",
        b"Bitte senden Sie mir die \nSteuerbescheinigung.\n>> alte \n>> Frage\n> Antwort\n From hier\n-- \nMax\n",
    )

    assert body_of(data) == (
        "Bitte senden Sie mir die Steuerbescheinigung.\n>> alte Frage\n> Antwort\nFrom hier\n-- \nMax\n"
    )


def test_format_flowed_with_delsp_joins_words() -> None:
    data = message("Content-Type: text/plain; format=flowed; delsp=yes", b"Steuer \nbescheinigung\n")

    assert body_of(data) == "Steuerbescheinigung\n"


def test_the_plain_text_of_an_alternative_is_preferred() -> None:
    assert body_of(multipart("alternative", PLAIN, HTML)) == TEXT


@pytest.mark.parametrize(
    "stand_in",
    ["", "  \n", "Ihr E-Mail-Programm unterstützt kein HTML.", "Please view this in an HTML capable program."],
)
def test_html_is_taken_where_the_plain_text_only_stands_in_for_it(stand_in: str) -> None:
    data = multipart("alternative", part("text/plain", stand_in), HTML)

    assert body_of(data) == f"<p>{TEXT}</p>"


def test_html_is_taken_where_the_plain_text_holds_a_fraction_of_it() -> None:
    long = part("text/html", "<p>" + "Bitte ändern Sie den Sparplan. " * 20 + "</p>")

    assert body_of(multipart("alternative", part("text/plain", "Guten Tag"), long)).startswith("<p>Bitte")


def test_related_parts_give_their_root_and_attachments_are_left_out() -> None:
    image = b"Content-Type: image/png\r\nContent-ID: <logo>\r\n\r\nxx"
    related = multipart("related", HTML, image).replace(b"rand", b"innen")
    attachment = part("text/plain", "Kontoauszug als Text", 'Content-Disposition: attachment; filename="a.txt"\r\n')

    assert body_of(multipart("mixed", related, attachment)) == f"<p>{TEXT}</p>"


def test_text_parts_of_a_mixed_message_follow_one_another() -> None:
    data = multipart("mixed", PLAIN, b"Content-Type: image/png\r\n\r\nxx", part("text/plain", "PS: eilt"))

    assert body_of(data) == f"{TEXT}\nPS: eilt"


def test_plain_text_beside_html_is_escaped() -> None:
    body = body_of(multipart("mixed", HTML, part("text/plain", "5 < 6 & mehr")))

    assert body == f"<p>{TEXT}</p>\n<br>\n<div>5 &lt; 6 &amp; mehr</div>"


def test_an_attached_message_is_read_as_a_forward() -> None:
    inner = b"Content-Type: message/rfc822\r\n\r\nFrom: a@example.org\r\nSubject: Frage\r\n\r\nBitte um Hilfe"
    read = read_message(multipart("mixed", part("text/plain", "FYI"), inner), "x")

    assert read.mail.body == (
        "FYI\n\n---------- Forwarded message ----------\nFrom: a@example.org\nSubject: Frage\n\nBitte um Hilfe"
    )
    assert read.notes == ("an attached message was read as a forward",)


@pytest.mark.parametrize(
    ("kind", "note"),
    [
        ("application/ms-tnef", "winmail.dat"),
        ('application/octet-stream; name="winmail.dat"', "winmail.dat"),
        ("application/pkcs7-mime", "encrypted"),
    ],
)
def test_what_is_left_alone_is_noted(kind: str, note: str) -> None:
    read = read_message(multipart("mixed", PLAIN, f"Content-Type: {kind}\r\n\r\nxx".encode()), "x")

    assert read.mail.body == TEXT
    assert [note in line for line in read.notes] == [True]


def test_a_message_without_text_is_no_mail() -> None:
    with pytest.raises(InvalidMail) as caught:
        read_message(multipart("mixed", b"Content-Type: image/png\r\n\r\nxx"), "x")

    assert caught.value.code == "no_text"


def test_a_thousand_parts_are_read() -> None:
    data = multipart("mixed", *[part("text/plain", f"Teil {number}") for number in range(1000)])

    assert body_of(data).count("Teil") == 1000


def test_a_thousand_nested_parts_are_read_or_refused_but_never_crash() -> None:
    data = PLAIN
    for depth in range(1000):
        data = multipart("mixed", data).replace(b"rand", f"r{depth}".encode())

    assert outcome(data) in ("read", "too_deep")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 1000,
        b"Content-Type: multipart/mixed\n\nkein Rand",
        b"Content-Type: multipart/mixed; boundary=\n\nText",
        b"Content-Type: text/plain; charset=\xff\xfe\n\nText",
        b"Subject: =?utf-8?q?\xff?=\n\nText",
        b"Content-Type: message/rfc822\n\n",
        b"Content-Transfer-Encoding: base64\n\n%%%kein base64%%%",
        b"Content-Type: text/plain; name*0*=x'y'z%\n\nText",
        b"Content-Type: text/plain; charset*=utf-8''%FF\n\nText",
    ],
)
def test_broken_messages_are_read_or_refused(data: bytes) -> None:
    assert outcome(data) in ("read", "no_text")


FILE = part("application/pdf", "%PDF", 'Content-Disposition: attachment; filename="a.pdf"\r\n')
PHOTO = part("image/jpeg", "x", 'Content-Disposition: inline; filename="photo.jpg"\r\n')
SIGNATURE = part("application/pkcs7-signature", "x", 'Content-Disposition: attachment; filename="smime.p7s"\r\n')


@pytest.mark.parametrize(
    ("data", "files"),
    [
        (multipart("alternative", PLAIN, HTML), 0),
        (multipart("related", HTML, PHOTO), 0),  # a picture of the page itself
        (multipart("mixed", PLAIN, FILE, PHOTO), 2),
        (multipart("mixed", PLAIN, part("text/plain", "Auszug", "Content-Disposition: attachment\r\n")), 1),
        (multipart("signed", PLAIN, SIGNATURE), 0),
        (multipart("mixed", PLAIN, part("application/ms-tnef", "x", "")), None),  # nobody knows what is in it
    ],
)
def test_files_that_came_with_a_mail_are_counted(data: bytes, files: int | None) -> None:
    mail = read_message(data, "x").mail

    assert mail.attachments == files
    assert Email.from_record(mail.to_record()).attachments == files
    assert Example.from_email(mail).attachments == files


@pytest.mark.parametrize(
    ("given", "files"),
    [(["a.pdf", "b.pdf"], 2), ("3", 3), (0, 0), ("a.pdf", None), (True, None), (-1, None), ({}, None)],
)
def test_a_record_may_count_its_files_or_list_them(given: object, files: int | None) -> None:
    assert Email.from_record({"id": "1", "body": "x", "attachments": given}).attachments == files
