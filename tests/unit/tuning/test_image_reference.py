import pytest

from tuning.destination import LayoutDestination, parse_destination
from tuning.image_reference import parse_image_reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("alpine", "docker.io/library/alpine"),
        ("org/app:1", "docker.io/org/app:1"),
        ("docker.io/app", "docker.io/library/app"),
        ("index.docker.io/org/app", "docker.io/org/app"),
        ("localhost/app", "localhost/app"),
        ("Registry/app", "Registry/app"),  # an upper case letter makes it a host
        ("localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("registry.example.com/a/b/c:1.2_3-x", "registry.example.com/a/b/c:1.2_3-x"),
        ("[::1]:5000/app", "[::1]:5000/app"),
        (f"r.example.com/app@{DIGEST}", f"r.example.com/app@{DIGEST}"),
        (f"r.example.com/app:1@{DIGEST}", f"r.example.com/app:1@{DIGEST}"),
        ("a__b/c--d:T", "docker.io/a__b/c--d:T"),
    ],
)
def test_a_reference_is_normalised(text: str, normal: str) -> None:
    assert str(parse_image_reference(text)) == normal


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "malformed repository"),
        ("r.example.com/Adapters/x:1", "must be lowercase; write 'adapters/x'"),
        ("https://r.example.com/app:1", "must not start with a scheme"),
        ("r.example.com/app:", "malformed tag"),
        ("r.example.com/app:-1", "malformed tag"),
        ("r.example.com/app:" + "t" * 129, "malformed tag"),
        ("r.example.com/app@sha256:12", "malformed digest"),
        ("r.example.com/a:b:c", "malformed tag"),
        ("r.example.com//app", "malformed repository"),
        ("r_x.example.com:80/app", "malformed registry"),
        ("r.example.com/" + "a" * 256, "more than 255"),
        ("r.example.com/a b", "malformed repository"),
    ],
)
def test_a_malformed_reference_is_refused_with_what_is_wrong(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        print(parse_image_reference(text))


def test_a_destination_without_a_tag_gets_latest() -> None:
    assert str(parse_destination("r.example.com/app")) == "r.example.com/app:latest"


def test_a_layout_destination_is_a_folder_and_a_tag() -> None:
    destination = parse_destination("oci:/mnt/results/image:v1")
    assert isinstance(destination, LayoutDestination)
    assert (str(destination.folder), destination.tag) == ("/mnt/results/image", "v1")
    assert str(destination) == "oci:/mnt/results/image:v1"


@pytest.mark.parametrize("text", ["oci:", "oci:/a", "oci:/a:", "oci::t", "oci:/a:b/c", f"r.example.com/a@{DIGEST}"])
def test_a_malformed_destination_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_destination(text)
