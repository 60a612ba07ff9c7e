"""Tar shards nobody vouched for: found by offset, never extracted, never half read."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.io.shards import write_shard
from u2seg.errors import UserError
from u2seg.io.images import BadImageError, read_content
from u2seg.io.paths import image_file
from u2seg.io.sources import expand_braces, index_shard

ENDINGS = (".jpg", ".png")
MEMBERS = {
    "a.jpg": b"A" * 700,
    "deep/er/b.PNG": b"B" * 512,
    "a.json": b"{}",
    "é" * 80 + ".png": b"long name",
    "c.jpg": b"C",
}


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_photograph_is_read_by_its_offset(tmp_path: Path, tar_format: int) -> None:
    shard = write_shard(tmp_path / "s.tar", MEMBERS, tar_format)
    entries = index_shard(shard, ENDINGS)
    assert [e["file_name"] for e in entries] == [n for n in MEMBERS if n != "a.json"]
    for entry in entries:
        place = image_file(tmp_path, {**entry, "shard": "s.tar"})
        assert read_content(place) == MEMBERS[entry["file_name"]]
    # A header is one block of 512 bytes; the first file takes two blocks of data.
    assert entries[0]["offset"] == 512
    if tar_format == tarfile.GNU_FORMAT:
        assert entries[1]["offset"] == 512 + 1024 + 512


def test_the_extension_begins_at_the_first_dot(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = write_shard(tmp_path / "s.tar", {"v1.0/a.jpg": b"1", "v1.0/a.seg.png": b"2"})
    assert [e["file_name"] for e in index_shard(shard, ENDINGS)] == ["v1.0/a.jpg"]
    assert "1 members such as v1.0/a.seg.png are taken for annotations" in caplog.text
    assert len(index_shard(shard, (*ENDINGS, ".seg.png"))) == 2


def test_hidden_members_and_folders_are_passed_over(tmp_path: Path) -> None:
    names = ["._a.jpg", "__MACOSX/._a.jpg", ".git/a.jpg", "./b.jpg", "././c.jpg"]
    shard = write_shard(tmp_path / "s.tar", dict.fromkeys(names, b"1"))
    with tarfile.open(shard, "a") as archive:
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert [e["file_name"] for e in index_shard(shard, ENDINGS)] == ["b.jpg", "c.jpg"]


@pytest.mark.parametrize("name", ["../a.jpg", "/etc/a.jpg", "x/../../a.jpg", "C:/a.jpg"])
def test_names_that_lead_elsewhere_are_refused_one_by_one(tmp_path: Path, name: str) -> None:
    shard = write_shard(tmp_path / "s.tar", {name: b"1", "good.jpg": b"2"})
    bad, good = index_shard(shard, ENDINGS)
    assert "leaves its root" in bad["reason"] and "reason" not in good


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_never_followed(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    (entry,) = index_shard(path, ENDINGS)
    assert "link, a device" in entry["reason"]


def spoil(shard: Path, position: int, content: bytes) -> None:
    with shard.open("r+b") as file:
        file.seek(position)
        file.write(content)


def test_a_garbled_header_does_not_end_the_shard_silently(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s.tar", MEMBERS)
    spoil(shard, 512 + 1024 + 100, b"garbage")  # in the second header
    with pytest.raises(UserError, match=r"s\.tar is damaged: the header is garbled at byte 1536"):
        index_shard(shard, ENDINGS)


@pytest.mark.parametrize("kept", [0, 100, 512, 900, 1536, 2000])
def test_a_shard_that_was_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    shard = write_shard(tmp_path / "s.tar", MEMBERS)
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"s\.tar is damaged"):
        index_shard(shard, ENDINGS)


def test_joined_archives_do_not_lose_the_second(tmp_path: Path) -> None:
    first = write_shard(tmp_path / "1.tar", {"a.jpg": b"1"})
    second = write_shard(tmp_path / "2.tar", {"b.jpg": b"1"})
    first.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(UserError, match="data follows the end mark"):
        index_shard(first, ENDINGS)


@pytest.mark.parametrize("start", [b"\x1f\x8b\x08\0", b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"])
def test_compressed_shards_say_what_to_do(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "s.tar").write_bytes(start + bytes(2000))
    with pytest.raises(UserError, match=r"compressed.*decompress it first"):
        index_shard(tmp_path / "s.tar", ENDINGS)


def header(kind: bytes, size: int) -> bytes:
    """A header that claims any size; ``tobuf`` writes large and negative ones in base 256."""
    info = tarfile.TarInfo("a.jpg")
    info.type, info.size = kind, 0
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    sign = 0o200 if size >= 0 else 0o377
    block[124:136] = bytes([sign]) + (size % 256**11).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (tarfile.REGTYPE, 1 << 60), (tarfile.REGTYPE, -512), (tarfile.REGTYPE, -(1 << 60)),
        (tarfile.XHDTYPE, 1 << 40), (tarfile.XGLTYPE, -1024), (tarfile.GNUTYPE_LONGNAME, 1 << 40),
    ],
)  # fmt: skip
def test_sizes_are_bounded(tmp_path: Path, kind: bytes, size: int) -> None:
    (tmp_path / "s.tar").write_bytes(header(kind, size) + bytes(4096))
    with pytest.raises(UserError, match=r"s\.tar is damaged"):
        index_shard(tmp_path / "s.tar", ENDINGS)


def test_extended_headers_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(header(tarfile.XHDTYPE, 0) * 3000 + bytes(1024))
    with pytest.raises(UserError, match=r"s\.tar"):
        index_shard(tmp_path / "s.tar", ENDINGS)


GOOD = io.BytesIO()
with tarfile.open(fileobj=GOOD, mode="w", format=tarfile.PAX_FORMAT) as _archive:
    for _name, _content in MEMBERS.items():
        _info = tarfile.TarInfo(_name)
        _info.size = len(_content)
        _archive.addfile(_info, io.BytesIO(_content))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(position=st.integers(0, 7000), garbage=st.binary(min_size=1, max_size=40), cut=st.booleans())
def test_any_damage_is_an_error_or_leaves_places_inside_the_shard(
    tmp_path_factory: pytest.TempPathFactory, position: int, garbage: bytes, cut: bool
) -> None:
    content = bytearray(GOOD.getvalue())
    content[position : position + len(garbage)] = garbage
    if cut:
        del content[position:]
    path = tmp_path_factory.getbasetemp() / "fuzzed.tar"
    path.write_bytes(content)
    try:
        entries = index_shard(path, ENDINGS)
    except UserError:
        return
    for entry in entries:
        assert entry["offset"] >= 0 and entry["offset"] + entry["size"] <= len(content)


def test_a_shard_that_shrank_since_is_noticed(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "s.tar", MEMBERS)
    last = index_shard(shard, ENDINGS)[-1]
    shard.write_bytes(shard.read_bytes()[: last["offset"]])
    with pytest.raises(BadImageError, match="cut short: 0 of 1 bytes"):
        read_content(image_file(tmp_path, {**last, "shard": "s.tar"}))


@pytest.mark.parametrize(
    "change",
    [{"shard": 3}, {"shard": "../s.tar"}, {"offset": -1}, {"size": None}, {"size": True}],
)
def test_places_in_untrusted_json_are_checked(tmp_path: Path, change: dict[str, object]) -> None:
    record = {"file_name": "a.jpg", "shard": "s.tar", "offset": 512, "size": 3, **change}
    with pytest.raises(UserError):
        image_file(tmp_path, record)


def test_patterns_may_hold_several_ranges() -> None:
    assert expand_braces("{0..1}/s{9..10}.tar") == [
        "0/s9.tar", "0/s10.tar", "1/s9.tar", "1/s10.tar",
    ]  # fmt: skip
    assert expand_braces("s-{000..001}") == ["s-000", "s-001"]
