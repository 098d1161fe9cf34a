"""Writes zips of every kind into a directory: good ones, broken ones, and ones that lie. Usage: zips.py DIRECTORY

Their outcomes are in tests/all/zips.rs.
"""

import io
import os
import stat
import struct
import subprocess
import sys
import warnings
import zipfile
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

directory = sys.argv[1]
os.makedirs(directory, exist_ok=True)
warnings.simplefilter("ignore")
NOISE = os.urandom(100_000)


def write(name, data):
    with open(os.path.join(directory, name + ".zip"), "wb") as file:
        file.write(data)


def made(name, *entries, method=ZIP_DEFLATED, target=None):
    """A zip with NAME.first, by which its message is found, and further (name, contents)."""
    target = target or io.BytesIO()
    with ZipFile(target, "w", method) as archive:
        archive.writestr(name + ".first", "first\n" * 100)
        for entry, contents in entries:
            archive.writestr(entry, contents)
    return target


def bytes_of(*args, **settings):
    return made(*args, **settings).getvalue()


class Pipe(io.RawIOBase):
    """Takes bytes and seeks nowhere, so that lengths follow their data in descriptors."""

    def __init__(self):
        self.data = b""

    def writable(self):
        return True

    def write(self, data):
        self.data += bytes(data)
        return len(data)


def patched(data, signature, offset, form, value):
    """With a field changed in every record of a signature."""
    data, at = bytearray(data), data.find(signature)
    while at >= 0:
        struct.pack_into(form, data, at + offset, value)
        at = data.find(signature, at + 4)
    return bytes(data)


LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"

# Good ones.
write("plain", bytes_of("plain", ("a.txt", "A"), ("empty.txt", "")))
write("stored", bytes_of("stored", ("a.bin", NOISE), method=ZIP_STORED))
write("directories", bytes_of("directories", ("d/", ""), ("d/a.txt", "A"), ("e/a.txt", "B"), ("e/f/", "")))
write("paths", bytes_of("paths", ("../up.txt", "A"), ("/root.txt", "B"), ("C:/w/win.txt", "C"), ("x\\y\\back.txt", "D")))
write("zero", bytes_of("zero", ("n_ame.txt", "A")).replace(b"n_ame.txt", b"n\0ame.txt"))
write("equal", bytes_of("equal", ("a.txt", "A"), ("a.txt", "B")))
write("unicode", bytes_of("unicode", ("käse.txt", "A")))
write("cp437", bytes_of("cp437", ("k_se.txt", "A")).replace(b"k_se.txt", b"k\x84se.txt"))
write("descriptors", made("descriptors", ("a.txt", "A" * 5000), target=Pipe()).data)
write("garbage", NOISE + bytes_of("garbage", ("a.txt", "A")))
write("nested", bytes_of("nested", ("inner.zip", bytes_of("inner"))))
write("one", bytes_of("one"))
write("most", bytes_of("most", *[(f"{n}.txt", str(n)) for n in range(999)]))
commented = made("commented", ("a.txt", "A"))
with ZipFile(commented, "a") as archive:
    archive.comment = b"c" * 65_535
write("commented", commented.getvalue())
limit, zipfile.ZIP_FILECOUNT_LIMIT = zipfile.ZIP_FILECOUNT_LIMIT, 0
write("zip64", bytes_of("zip64", ("a.txt", "A")))
zip64 = bytes_of("sector", ("a.txt", "A"))
zipfile.ZIP_FILECOUNT_LIMIT = limit
with open(os.path.join(directory, "infozip.first"), "w") as file:
    file.write("first\n")
subprocess.run(["zip", "-q", "infozip.zip", "infozip.first"], cwd=directory, check=True)

# Broken ones, and ones that lie.
write("no-zip", NOISE)
write("empty", END + bytes(18))
folders = io.BytesIO()
with ZipFile(folders, "w") as archive:
    archive.writestr("d/", "")
write("only-directories", folders.getvalue())
write("truncated", bytes_of("truncated", ("a.bin", NOISE))[:60_000])
write("headless", bytes_of("headless", ("a.bin", NOISE))[60_000:])
write("too-many", bytes_of("too-many", *[(f"{n}.txt", str(n)) for n in range(1_000)]))
link = ZipInfo("link.txt")
link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
write("link", bytes_of("link", (link, "/etc/passwd")))
secret = bytes_of("secret", ("a.txt", "A"))
write("secret", patched(patched(secret, LOCAL, 6, "<H", 1), CENTRAL, 8, "<H", 1))
write("bzip2", bytes_of("bzip2", ("a.txt", "A"), method=ZIP_BZIP2))
broken = bytes_of("crc", ("a.bin", NOISE), method=ZIP_STORED)
at = broken.find(NOISE[:100]) + 50
write("crc", broken[:at] + bytes([broken[at] ^ 1]) + broken[at + 1 :])
lying = bytes_of("longer", ("a.txt", "A"))
write("longer", patched(patched(lying, LOCAL, 22, "<I", 7), CENTRAL, 24, "<I", 7))
write("shorter", patched(patched(lying, LOCAL, 22, "<I", 7000), CENTRAL, 24, "<I", 7000))
write("count", patched(patched(lying, END, 8, "<H", 1), END, 10, "<H", 1))
write("filled-directory", bytes_of("filled", ("d_", "A")).replace(b"d_", b"d/"))
write("bomb", bytes_of("bomb", ("zeros.bin", bytes(30_000_000))))
shared = made("shared", ("0.bin", NOISE))
with ZipFile(shared, "a") as archive:
    again = archive.getinfo("0.bin")
    for n in range(1, 40):
        copy = ZipInfo(f"{n}.bin")
        for field in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
            setattr(copy, field, getattr(again, field))
        archive.filelist.append(copy)
    archive._didModify = True
write("shared", shared.getvalue())
# A zip64 end record of five MiB: its locator names a place long before itself.
at, padding = zip64.find(b"PK\x06\x06"), bytes(5 << 20)
record = bytearray(zip64[at : at + 56] + padding)
struct.pack_into("<Q", record, 4, len(record) - 12)
write("sector", zip64[:at] + bytes(record) + zip64[at + 56 :])
# A directory of 800,000 entries, told by a zip64 end record.
local = LOCAL + struct.pack("<5H3I2H", 20, 0, 0, 0, 0, 0, 0, 0, 7, 0) + b"0000000"
entry = CENTRAL + struct.pack("<6H3I5H2I", 20, 20, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0)
entries, count = b"".join(entry + b"%07d" % n for n in range(800_000)), 800_000
record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, len(entries), len(local))
locator = b"PK\x06\x07" + struct.pack("<IQI", 0, len(local) + len(entries), 1)
write("crowd", local + entries + record + locator + END + struct.pack("<4H2IH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
