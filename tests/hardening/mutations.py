"""Damage to files: to their bytes, to values of JSON and TOML, to members of archives."""

import copy
import io
import json
import re
import zipfile
import zlib
from random import Random
from typing import Any

LITERALS = (
    *("null", "true", "0", "-1", "1e308", "5e-324", "0.5", "[]", "{}", "[null]", '{"value": 1}'),
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400, "1" * 5000, "1000000000000"),
    *('""', '"text"', '"\\ud800"', '"\\u001b[31m\\u0000\\n"', '"<script>alert(1)</script>"'),
    *(
        "[" * 50 + "]" * 50,
        "[" * 5000 + "]" * 5000,
        "[" * 200_000,
        '{"a":' * 2000 + "1" + "}" * 2000,
    ),
    '"' + "x" * 100_000 + '"',
)
"""What may stand in the place of a value of JSON."""
TOML_LITERALS = (
    *("0", "-1", "0.0", "-0.5", "1e308", "1e999", "nan", "inf", "-inf", "9" * 400, "9" * 5000),
    *(
        "true",
        '""',
        '"text"',
        '"\\u001b[31m"',
        "'''\n'''",
        "[]",
        "{}",
        "[[[]]]",
        "1979-05-27",
        "10**9",
    ),
    *("1000000000000", "[" * 3000 + "]" * 3000, "{a.b.c.d = 1}", '{max = "10%"}', '["flip", 3]'),
)
"""Likewise of TOML."""
_HOLE = "\x00hole"


def of_bytes(content: bytes, random: Random) -> bytes:
    """Cut short, flip bits, insert, remove, repeat, or overwrite a length."""
    at, size = random.randrange(len(content) + 1), random.choice((1, 4, 8, 64))
    noise = random.choice(
        (random.randbytes(size), b"\xff" * size, bytes(size), b"\xc3\x28", b"\x1b[")
    )
    kind = random.randrange(6)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + noise + content[at:]
    if kind == 2:
        return content[:at] + content[at + size :]
    if kind == 3:
        return content[:at] + content[max(at - size, 0) :]
    if kind == 4:  # at the head, where lengths and magic numbers are
        return noise + content[len(noise) :]
    flipped = bytearray(content or b"\0")
    for _ in range(random.choice((1, 2, 20))):
        flipped[random.randrange(len(flipped))] ^= 1 << random.randrange(8)
    return bytes(flipped)


def of_json(value: Any, random: Random) -> bytes:
    """Replace, remove, add or repeat something, once or a few times."""
    root, literals = {"": copy.deepcopy(value)}, []
    for _ in range(random.choice((1, 1, 2, 5))):
        within = random.choice(list(_containers(root)))
        keys = list(within) if isinstance(within, dict) else list(range(len(within)))
        hole = f"{_HOLE}{len(literals)}"
        literals.append(random.choice(LITERALS))
        if not keys:
            continue
        key, kind = random.choice(keys), random.randrange(4)
        if kind == 0 and within is not root:
            del within[key]
        elif kind == 1 and isinstance(within, dict) and within is not root:
            within[f"{_HOLE}{key}"] = hole  # a second time
        else:
            within[key] = hole
    text = json.dumps(root[""])
    for number, literal in enumerate(literals):
        text = text.replace(json.dumps(f"{_HOLE}{number}"), literal)
    return text.replace(json.dumps(_HOLE)[1:-1], "").encode()


def of_toml(text: str, random: Random) -> bytes:
    """Replace a value, remove or repeat a line, or damage bytes."""
    lines = text.splitlines()
    for _ in range(random.choice((1, 1, 2, 5))):
        at, kind = random.randrange(len(lines)), random.randrange(5)
        if kind == 0 and len(lines) > 1:
            del lines[at]
        elif kind == 1:
            lines.insert(at, random.choice(lines))
        elif "=" in lines[at]:
            lines[at] = f"{lines[at].partition('=')[0]}= {random.choice(TOML_LITERALS)}"
    return "\n".join(lines).encode()


def of_chunks(content: bytes, random: Random) -> bytes:
    """Put a huge or odd number in place of two or four bytes near the head, as of a size.

    The checksum of a PNG's header is set right, so that readers look inside.
    """
    width = random.choice((2, 4))
    number = random.choice((0, 1, 255, 20_000, 65_535, 2**31 - 1, 2**32 - 1)) % 256**width
    at = random.randrange(min(len(content) - 4, 64))
    changed = content[:at] + number.to_bytes(width, random.choice(("little", "big")))
    changed += content[at + width :]
    if content.startswith(b"\x89PNG"):
        changed = changed[:29] + zlib.crc32(changed[12:29]).to_bytes(4, "big") + changed[33:]
    return changed


def of_safetensors(content: bytes, random: Random) -> bytes:
    """Damage the header's JSON, its length, or the JSON of the metadata within."""
    size = int.from_bytes(content[:8], "little")
    header, rest = json.loads(content[8 : 8 + size]), content[8 + size :]
    kind = random.randrange(4)
    if kind == 0:
        size = random.choice((0, 1, size - 1, size + 1, 10**8, 2**31, 2**63, 2**64 - 1))
        return size.to_bytes(8, "little") + content[8:]
    if kind == 1 or "__metadata__" not in header:
        dtypes = ("F64", "I64", "BOOL", "U8", "F16", "BF16", "F8_E4M3", "C64", "X9")
        changed = re.sub(
            rb'"dtype":\s*"\w+"',
            lambda old: (
                b'"dtype":"%s"' % random.choice(dtypes).encode()
                if random.random() < 0.3
                else old[0]
            ),
            content[8 : 8 + size],
        )
    elif kind == 2:
        changed = of_json(header, random)
    else:
        meta = of_json(json.loads(header["__metadata__"]["hessdiag"]), random)
        header["__metadata__"]["hessdiag"] = meta.decode()
        changed = json.dumps(header).encode()
    return len(changed).to_bytes(8, "little") + changed + rest


def of_archive(content: bytes, random: Random) -> bytes:
    """Damage one member and set its checksum right, so that readers look inside."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice([name for name in members if name.endswith((".pkl", ".npy"))])
    if name.endswith(".npy") and random.random() < 0.7:
        members[name] = _of_array(members[name], random)
    else:
        members[name] = of_bytes(members[name], random)
    if random.random() < 0.1:
        del members[name]
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for other, member in members.items():
            archive.writestr(other, member)
    return written.getvalue()


def _of_array(content: bytes, random: Random) -> bytes:
    """Put another dtype, order or shape into the header of an array."""
    dtypes = (
        b"O",
        b"<f8",
        b">f4",
        b"<i8",
        b"|b1",
        b"<U99",
        b"<c16",
        b"<M8[s]",
        b"|V8",
        b"<f16",
        b"x",
    )
    shapes = (
        b"()",
        b"(0,)",
        b"(-1,)",
        b"(9,9,9)",
        b"(1000000000000,)",
        b"(2,)*99",
        b"(1e9,)",
        b"None",
    )
    size = int.from_bytes(content[8:10], "little")
    header = content[10 : 10 + size]
    if random.random() < 0.5:
        header = re.sub(rb"'descr': '[^']*'", b"'descr': '%s'" % random.choice(dtypes), header)
    else:
        header = re.sub(rb"'shape': \([^)]*\)", b"'shape': " + random.choice(shapes), header)
    return content[:8] + len(header).to_bytes(2, "little") + header + content[10 + size :]


def _containers(value: Any) -> list[Any]:
    if not isinstance(value, dict | list):
        return []
    items = value.values() if isinstance(value, dict) else value
    return [value, *(found for item in items for found in _containers(item))]
