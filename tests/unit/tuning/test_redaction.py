import pytest

from tuning.redaction import printable_url, redact


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a/b.jsonl", "https://host/a/b.jsonl"),
        ("https://user:s3cret@host:8443/a", "https://host:8443/a"),
        ("https://host/a?X-Amz-Signature=s3cret", "https://host/a?…"),
        ("https://host/a#sha256=abc", "https://host/a"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("http://host:notaport/s3cret", "<unreadable URL>"),
    ],
)
def test_a_url_is_shown_without_user_password_query_and_fragment(url: str, shown: str) -> None:
    assert printable_url(url) == shown


@pytest.mark.parametrize(
    "text",
    [
        "GET https://user:s3cret@host/x failed",
        "Max retries exceeded with url: /data/x.jsonl?token=s3cret (Caused by …)",
        "Authorization: Basic czNjcmV0OnMzY3JldA==s3cret",
        "header Bearer s3cret.s3cret-s3cret",
        '{"identitytoken": "s3cret"}',
        "password=s3cret next",
        "secret: 's3cret with spaces'",
    ],
)
def test_no_secret_is_left_in_a_text(text: str) -> None:
    assert "s3cret" not in redact(text)


def test_ordinary_text_is_left_alone() -> None:
    text = "downloaded file=train.jsonl bytes=12 tokens per second 3.5; is it whole?"
    assert redact(text) == text
