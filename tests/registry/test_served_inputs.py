"""What a server is asked: bytes beside names, and no way to any other file of the server's."""

import base64
import io

import pytest
from PIL import Image
from pydantic import ValidationError

from xmtl_ray.events.records import DataError
from xmtl_ray.registry.inputs import MEDIA_ROOT, ConversationInput, DocumentInput, read_conversation, read_document


def png(color=(200, 30, 30)):
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), color).save(stream, "PNG")
    return stream.getvalue()


def as_text(content):
    return base64.b64encode(content).decode()


def test_a_document_with_its_images_bytes(tmp_path):
    """It is what `xmtl predict` would read from a file, with ids of its own or those that it was given."""
    asked = DocumentInput(
        text="Rebels attacked Rome. Two died.",
        images=["a/1.png"],
        media={"a/1.png": as_text(png())},
        objects={"a/1.png": [{"box": [0, 0, 4, 4], "label": "person"}]},
        entities=[{"sentence": 0, "words": [0, 1]}],
    )
    found = read_document(asked, 3, tmp_path)
    assert found.document.id == "document-3"
    assert [len(sentence.words) for sentence in found.document.sentences] == [4, 3]
    assert found.images[0].file == "a/1.png" and found.images[0].objects == "given" and found.has_entities
    assert found.document.images[0].path.read_bytes() == png()


@pytest.mark.parametrize("name", ["../x.png", "/etc/hostname", "a/../../x.png", "file:x.png", "~/x.png", "a\\b.png"])
def test_no_name_leads_out_of_the_folder(tmp_path, monkeypatch, name):
    monkeypatch.setenv(MEDIA_ROOT, str(tmp_path))
    (tmp_path / "in").mkdir()
    for media in ({name: as_text(png())}, None):
        with pytest.raises(DataError, match="expected a relative path"):
            read_document(DocumentInput(text="A.", images=[name], media=media), 0, tmp_path / "in")
    with pytest.raises(DataError, match="expected a relative path"):
        read_conversation(ConversationInput(image=name), 0, tmp_path / "in")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_names_without_bytes_are_the_servers_business(tmp_path, monkeypatch):
    """None unless its owner names a folder; then what lies in it, and no link out of it."""
    place, root = tmp_path / "place", tmp_path / "root"
    place.mkdir()
    root.mkdir()
    asked = DocumentInput(images=["1.png"])
    monkeypatch.delenv(MEDIA_ROOT, raising=False)
    with pytest.raises(DataError, match=f"found 'no bytes of 1.png', expected its bytes in media.*{MEDIA_ROOT}"):
        read_document(asked, 0, place)
    monkeypatch.setenv(MEDIA_ROOT, str(root))
    with pytest.raises(DataError, match="no such file"):
        read_document(asked, 0, place)
    (tmp_path / "secret.png").write_bytes(png())
    (root / "1.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="link"):
        read_document(asked, 0, place)
    (root / "1.png").unlink()
    (root / "1.png").write_bytes(png())
    assert read_document(asked, 0, place).document.images[0].path.read_bytes() == png()


def test_bytes_that_are_none_or_nobodys(tmp_path):
    with pytest.raises(DataError, match=r"media\.1\.png: found '%%', expected base64"):
        read_document(DocumentInput(text="A.", images=["1.png"], media={"1.png": "%%"}), 0, tmp_path)
    with pytest.raises(DataError, match=r"media\.2\.png: found '2\.png', expected a name of"):
        read_document(DocumentInput(text="A.", images=["1.png"], media={"2.png": as_text(png())}), 0, tmp_path)
    with pytest.raises(ValidationError, match="Extra inputs"):
        DocumentInput(txt="A.")


def test_a_conversation_about_a_video_of_frames(tmp_path):
    """Its frames are sent under the video's name; other frames lie in another folder, for decoded ones are kept."""
    folders = set()
    for color in ((1, 2, 3), (4, 5, 6)):
        media = {f"clip/{number}.png": as_text(png(color)) for number in range(2)}
        one = read_conversation(ConversationInput(video="clip", text="Who?", media=media), 0, tmp_path)
        assert one.media.kind == "video" and "Who?" in one.turns[0].prompt
        assert sorted(path.name for path in (tmp_path / one.media.path).iterdir()) == ["0.png", "1.png"]
        folders.add(one.media.path)
    assert len(folders) == 2
    assert read_conversation(ConversationInput(prompt="Say it."), 1, tmp_path).turns[0].prompt == "Say it."
    for wrong in ({"image": "a", "video": "b"}, {"text": "a", "prompt": "b"}, {"id": "x"}):
        with pytest.raises(ValidationError, match="expected"):
            ConversationInput(**wrong)
