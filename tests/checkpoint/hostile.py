"""Files made to mislead who reads them: JSON, safetensors headers, pickles and archives, each by what is wrong with it."""

import io
import json
import pickle
import struct
import zipfile
import zlib

JSON = {
    "empty": b"",
    "a list": b"[]",
    "a number": b"7",
    "cut off": b'{"weight_map": {"a": "b',
    "no text": b"\xff\xfe{}",
    "deep": b'{"a":' * 100_000,
    "deep lists": b'{"a":' + b"[" * 100_000,
    "no map": b"{}",
    "map of numbers": b'{"weight_map": {"a": 1}}',
    "map of lists": b'{"weight_map": {"a": ["model.safetensors"]}}',
    "empty map": b'{"weight_map": {}}',
    "twice": b'{"weight_map": {"a": "x.safetensors"}, "weight_map": {"a": "y.safetensors"}}',
    "elsewhere": b'{"weight_map": {"a": "../../etc/passwd.safetensors"}}',
    "absolute": b'{"weight_map": {"a": "/x.safetensors"}}',
    "a pickle": b'{"weight_map": {"a": "model.bin"}}',
    "nul": b'{"weight_map": {"a": "x\\u0000.safetensors"}}',
    "endless name": json.dumps({"weight_map": {"a": "x" * 10**6 + ".safetensors"}}).encode(),
    "endless number": b'{"weight_map": {"a": ' + b"9" * 10_000 + b"}}",
    "nan": b'{"weight_map": NaN}',
    "large": b'{"weight_map": {' + b",".join(b'"%d": "x.safetensors"' % n for n in range(700_000)) + b"}}",
    "bomb": b'{"a": [' + b"[]," * 5_000_000 + b"[]]}",
}


def header(fields, data=b"", length=None):
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": offsets}


HEADERS = {
    "nothing": b"",
    "half a length": b"\1\0",
    "no header": struct.pack("<Q", 0),
    "endless": struct.pack("<Q", 2**64 - 1),
    "longer than the file": header({}, length=1000),
    "larger than any": struct.pack("<Q", 2**30) + b"{}",
    "no JSON": header(b"nonsense!"),
    "a list": header([]),
    "deep": header(b'{"a":' * 50_000),
    "not an object": header({"a": 7}),
    "nothing said": header({"a": {}}),
    "no such dtype": header({"a": entry("F8_E4M3", (8,))}, b"\0" * 8),
    "dtype is a list": header({"a": entry(["F32"])}, b"\0" * 8),
    "negative shape": header({"a": entry(shape=(-2,))}, b"\0" * 8),
    "shape is a word": header({"a": entry(shape="2")}, b"\0" * 8),
    "fraction": header({"a": entry(shape=(2.0,))}, b"\0" * 8),
    "true": header({"a": entry(shape=(True, 2))}, b"\0" * 8),
    "endless shape": header({"a": entry(shape=(2**61, 2**61))}, b"\0" * 8),
    "many dims": header({"a": entry(shape=(1,) * 100_000)}),
    "beyond the end": header({"a": entry(offsets=(0, 10**12))}, b"\0" * 8),
    "backwards": header({"a": entry(offsets=(8, 0))}, b"\0" * 8),
    "negative offset": header({"a": entry(offsets=(-8, 0))}, b"\0" * 8),
    "one offset": header({"a": entry(offsets=(0,))}, b"\0" * 8),
    "overlapping": header({"a": entry(), "b": entry(offsets=(4, 12))}, b"\0" * 12),
    "hole": header({"a": entry(offsets=(8, 16))}, b"\0" * 16),
    "left over": header({"a": entry()}, b"\0" * 9),
    "cut off": header({"a": entry()}, b"\0" * 7),
    "twice": header(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8
    ),
    "endless digits": header(b'{"a":{"dtype":"F32","shape":[' + b"9" * 9000 + b'],"data_offsets":[0,8]}}', b"\0" * 8),
    "long name": header({"x" * 10**6: entry(offsets=(4, 8))}, b"\0" * 8),
}


RAN = []


class Runs:
    """An object whose pickle runs a function of ours when Python reads it."""

    def __init__(self, function=None, *arguments):
        self.call = (function or RAN.append, arguments or ("ran",))

    def __reduce__(self):
        return self.call


def archive(pickled, entries=(), **how):
    """The bytes of a zip file as PyTorch lays it out."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how.pop("compression", zipfile.ZIP_STORED)) as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in entries:
            file.writestr(name, content)
    return out.getvalue()


def short(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


def tensor(storage=b"FloatStorage", key="0", numel=2, offset=0, shape=(2,), strides=(1,)):
    """The pickle of {"a": tensor}."""

    def number(value):
        return (
            b"J" + struct.pack("<i", value)
            if -(2**31) <= value < 2**31
            else b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
        )

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    stored = b"(" + short("storage") + b"ctorch\n" + storage + b"\n" + short(key) + short("cpu") + number(numel) + b"tQ"
    view = stored + number(offset) + numbers(shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x04}" + short("a") + b"ctorch._utils\n_rebuild_tensor_v2\n(" + view + b"tRs."


DATA = [("archive/data/0", b"\0" * 8)]
SOUND = archive(tensor(), DATA)
PICKLES = {
    "a list": pickle.dumps([1]),
    "a number": b"K\1.",
    "no tensors": pickle.dumps({"a": 1}),
    "nested": pickle.dumps({"a": {"b": 1}}),
    "os.system": pickle.dumps(Runs(print, "hello")),
    "in a dict": pickle.dumps({"a": Runs()}),
    "protocol 0": pickle.dumps(Runs(), 0),
    "protocol 4": pickle.dumps(Runs(), 4),
    "builtins": b"c__builtin__\neval\n(S'1+1'\ntR.",
    "getattr": b"cbuiltins\ngetattr\n.",
    "inst": b"(S'x'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'x'\no.",
    "newobj": b"cos\nsystem\n)\x81.",
    "reduce of data": b"}}R.",
    "build": b"ccollections\nOrderedDict\n}b.",
    "build a tuple": b"(K\1K\2t}b.",
    "persistent by name": b"Pstorage\n.",
    "extension": b"\x82\1.",
    "no stop": b"\x80\x02}",
    "empty": b"",
    "not a pickle": b"hello, world",
    "stack is empty": b"\x80\x02R.",
    "nothing to pop": b"(t(\x85.",
    "no mark": b"K\1t.",
    "two values": b"K\1K\2.",
    "memo without entry": b"\x80\x02h\5.",
    "memo far away": b"}r\xff\xff\xff\x7f0.",
    "far memo": b"}r\xff\xff\xff\x7fs.",
    "endless text": b"X\xff\xff\xff\x7fabc.",
    "endless bytes": b"\x8e" + b"\xff" * 7 + b"\x7f.",
    "endless number": b"\x8b\xff\xff\xff\x7f1.",
    "huge number": b"I" + b"9" * 100_000 + b"\n.",
    "itself": b"}(U\1a" + b"q\0h\0u.",
    "list in itself": b"]q\0h\0a.",
    "key is a dict": b"}}K\1s.",
    "key is a number": b"}K\1K\1s.",
    "tuples of tuples": b"K\1" + b"q\0h\0\x86" * 5000 + b".",
    "doubling key": b"}K\1" + b"q\0h\0\x86" * 2000 + b"K\1s.",
    "dicts of dicts": b"}" * 100_000 + b".",
    "marks": b"(" * 100_000 + b".",
    "bad text": b"X\2\0\0\0\xff\xfe.",
    "bad unicode": b"V\\ud800\n.",
    "no such storage": tensor(b"ByteStorage"),
    "quantized": tensor(b"QInt8Storage"),
    "negative size": tensor(numel=-2),
    "negative shape": tensor(shape=(-2,)),
    "larger than its bytes": tensor(numel=200, shape=(200,)),
    "offset beyond": tensor(offset=1),
    "huge shape": tensor(shape=(2**60, 2**60), strides=(2**60, 1)),
    "negative offset": tensor(offset=-1),
    "strides": tensor(shape=(2, 1), strides=(7, 7)),
    "fewer strides": tensor(shape=(2,), strides=()),
    "many dims": tensor(shape=(1,) * 5000, strides=(1,) * 5000),
    "no such bytes": tensor(key="7"),
    "elsewhere": tensor(key="../../data.pkl"),
    "repeating": tensor(shape=(1000,), strides=(0,)),
}


def with_end(**fields):
    """The sound archive with other values in the record at its end."""
    names = ("disk", "first", "here", "all", "size", "offset", "comment")
    place = SOUND.rindex(b"PK\5\6")
    values = dict(zip(names, struct.unpack("<HHHHIIH", SOUND[place + 4 :]), strict=True)) | fields
    return SOUND[:place] + b"PK\5\6" + struct.pack("<HHHHIIH", *values.values())


def with_central(position, raw):
    place = SOUND.index(b"PK\1\2")
    return SOUND[: place + position] + raw + SOUND[place + position + len(raw) :]


BOMB = zlib.compress(b"\0" * 10**6)
ARCHIVES = {
    "empty": b"",
    "a pickle of old": pickle.dumps({}),
    "only an end": SOUND[SOUND.rindex(b"PK\5\6") :],
    "no end": SOUND[:-22],
    "half": SOUND[: len(SOUND) // 2],
    "another zip": archive(tensor(), DATA).replace(b"data.pkl", b"data.txt"),
    "no bytes": archive(tensor()),
    "two pickles": archive(tensor(), [*DATA, ("other/data.pkl", b"N.")]),
    "compressed": archive(tensor(), DATA, compression=zipfile.ZIP_DEFLATED),
    "bytes changed": SOUND.replace(b"storage", b"stOrage"),
    "other byte order": archive(tensor(), [*DATA, ("archive/byteorder", b"big")]),
    "endless list": with_end(size=0xFFFFFFF0),
    "list before the file": with_end(offset=0xFFFFFFF0),
    "entries that are not": with_end(size=0, here=0, all=0),
    "half a list": with_end(size=50),
    "encrypted": with_central(8, b"\1\0"),
    "strange method": with_central(10, b"\x63\0"),
    "header elsewhere": with_central(42, struct.pack("<I", 5)),
    "header beyond": with_central(42, struct.pack("<I", 0x7FFFFFFF)),
    "entry too large": with_central(20, struct.pack("<II", 0x7FFFFFFF, 0x7FFFFFFF)),
    "sizes differ": with_central(20, struct.pack("<II", 5, 50)),
    "bad name": with_central(46, b"\xff\xfe\0"),
    "version": with_central(6, b"\xff\xff"),
    "name is long": with_central(28, b"\xff\xff"),
    "twice": archive(tensor(), [*DATA, *DATA]),
    "text": b"PK" * 100,
    "pickle bomb": archive(b"\x80\x02" + b"}" * (2**24 + 1), DATA),
    "not stored": archive(tensor(), [("archive/data/0", BOMB)]),
}
