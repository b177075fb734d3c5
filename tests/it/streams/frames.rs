//! A small codec for the frames of a WebSocket.

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) opcode: u8,
    pub(super) payload: Vec<u8>,
}

pub(super) const TEXT: u8 = 1;
pub(super) const CLOSE: u8 = 8;

impl Frame {
    pub(super) fn text(text: &str) -> Self {
        Self { opcode: TEXT, payload: text.as_bytes().to_vec() }
    }

    /// The status of a close frame.
    pub(super) fn status(&self) -> Option<u16> {
        (self.opcode == CLOSE).then(|| u16::from_be_bytes([self.payload[0], self.payload[1]]))
    }

    /// As a server sends it, or with a mask as a client does.
    pub(super) fn to_bytes(&self, mask: Option<[u8; 4]>) -> Vec<u8> {
        let bit = if mask.is_some() { 0x80 } else { 0 };
        let mut bytes = vec![0x80 | self.opcode];
        let length = self.payload.len();
        match (u8::try_from(length), u16::try_from(length)) {
            (Ok(length @ 0..=125), _) => bytes.push(bit | length),
            (_, Ok(length)) => {
                bytes.push(bit | 126);
                bytes.extend_from_slice(&length.to_be_bytes());
            }
            (_, Err(_long)) => {
                bytes.push(bit | 127);
                bytes.extend_from_slice(&u64::try_from(length).expect("a length").to_be_bytes());
            }
        }
        bytes.extend(mask.into_iter().flatten());
        let key = mask.unwrap_or_default();
        bytes.extend(self.payload.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]));
        bytes
    }

    /// The first frame of `bytes` and how long it is; none where it is not all there.
    pub(super) fn first(bytes: &[u8]) -> Option<(Self, usize)> {
        let (opcode, masked) = (bytes.first()? & 0x0f, bytes.get(1)? & 0x80 != 0);
        let (length, mut at) = match bytes[1] & 0x7f {
            126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
            127 => (usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?, 10),
            length => (usize::from(length), 2),
        };
        let mut mask = [0; 4];
        if masked {
            mask.copy_from_slice(bytes.get(at..at + 4)?);
            at += 4;
        }
        let payload = bytes.get(at..at + length)?.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]);
        Some((Self { opcode, payload: payload.collect() }, at + length))
    }

    /// All frames of `bytes`, and whether nothing is left over.
    pub(super) fn all(bytes: &[u8]) -> (Vec<Self>, bool) {
        let (mut frames, mut rest) = (Vec::new(), bytes);
        while let Some((frame, length)) = Self::first(rest) {
            frames.push(frame);
            rest = &rest[length..];
        }
        (frames, rest.is_empty())
    }
}
