"""Cases of h2spec's group `hpack` (RFC 7541). A block that cannot be decoded ends the connection."""

from .cases import case
from .wire import Code

# What is put after, or before, the fields of a good request.
AFTER = [
    ("hpack/2.3.3/1", "an indexed field beyond both tables", b"\xfe"),
    ("hpack/2.3.3/2", "a literal whose name is beyond both tables", b"\x7f\x3f\x04test"),
    ("hpack/4.2/1", "a new size of the dynamic table at the end of a block", b"\x21"),
    ("hpack/5.2/1", "a Huffman string with eight bits of padding", b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"),
    ("hpack/5.2/2", "a Huffman string padded with zeros", b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"),
    (
        "hpack/5.2/3",
        "a Huffman string with the symbol for its end inside",
        b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\xff\xff\xff\xfd\x25\x42\x7f",
    ),
    ("hpack/6.1/1", "an indexed field with the index 0", b"\x80"),
]
BEFORE = [("hpack/6.3/1", "a dynamic table larger than the settings allow", b"\x3f\xe1\xff\x03")]

for number, title, representation in AFTER:

    @case(number, title)
    def _(wire, representation=representation):
        wire.head(more=representation)
        return wire.connection_error(Code.COMPRESSION_ERROR)


for number, title, representation in BEFORE:

    @case(number, title)
    def _(wire, representation=representation):
        wire.head(before=representation)
        return wire.connection_error(Code.COMPRESSION_ERROR)
