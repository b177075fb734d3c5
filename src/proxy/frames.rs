//! Where the frames of a WebSocket and the messages of gRPC begin and end, told from the bytes as
//! they pass: a stream that is cut can be told so only between two of them.

/// The frames of one direction of a WebSocket (RFC 6455, 5.2).
#[derive(Debug, Clone, Default)]
pub(super) struct Frames {
    at: At,
    closed: bool,
}

#[derive(Debug, Clone, Copy, Default)]
enum At {
    #[default]
    Between,
    Length,
    Extended {
        more: u8,
        length: u64,
        masked: bool,
    },
    Mask {
        more: u8,
        length: u64,
    },
    Payload(u64),
}

impl At {
    const fn payload(length: u64) -> Self {
        if length == 0 { Self::Between } else { Self::Payload(length) }
    }

    const fn after_length(length: u64, masked: bool) -> Self {
        if masked { Self::Mask { more: 4, length } } else { Self::payload(length) }
    }
}

const CLOSE: u8 = 0x8;

impl Frames {
    /// These bytes passed.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        self.advance(bytes, false);
    }

    /// Whether the next byte begins a frame.
    pub(super) const fn is_between(&self) -> bool {
        matches!(self.at, At::Between)
    }

    /// Whether a frame passed, or has begun, that says goodbye.
    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// How many of these bytes belong to the frame that has begun.
    pub(super) fn rest_of_frame(&self, bytes: &[u8]) -> usize {
        self.clone().advance(bytes, true)
    }

    /// Goes over `bytes`, or only as far as the end of the frame. How far that was.
    fn advance(&mut self, bytes: &[u8], to_end_of_frame: bool) -> usize {
        let mut rest = bytes;
        while let Some((byte, after)) = rest.split_first() {
            if to_end_of_frame && self.is_between() {
                break;
            }
            rest = after;
            self.at = match self.at {
                At::Between => {
                    self.closed |= byte & 0x0f == CLOSE;
                    At::Length
                }
                At::Length => {
                    let masked = byte & 0x80 != 0;
                    match byte & 0x7f {
                        126 => At::Extended { more: 2, length: 0, masked },
                        127 => At::Extended { more: 8, length: 0, masked },
                        length => At::after_length(u64::from(length), masked),
                    }
                }
                At::Extended { more, length, masked } => {
                    let length = length << 8 | u64::from(*byte);
                    match more - 1 {
                        0 => At::after_length(length, masked),
                        more => At::Extended { more, length, masked },
                    }
                }
                At::Mask { more: 1, length } => At::payload(length),
                At::Mask { more, length } => At::Mask { more: more - 1, length },
                At::Payload(length) => {
                    // The byte that was taken, and as many of the rest as belong to it.
                    let (left, after) = skip(after, length - 1);
                    rest = after;
                    At::payload(left)
                }
            };
        }
        bytes.len() - rest.len()
    }
}

/// Takes up to `count` bytes off; how many are still to come, and what follows them.
fn skip(bytes: &[u8], count: u64) -> (u64, &[u8]) {
    let here = usize::try_from(count).unwrap_or(usize::MAX).min(bytes.len());
    let left = count - u64::try_from(here).unwrap_or(count);
    (left, bytes.get(here..).unwrap_or_default())
}

/// A frame by which a server says goodbye, with a status and a word why (RFC 6455, 5.5.1).
pub(super) fn close_frame(status: u16, why: &str) -> Vec<u8> {
    const WHY_BYTES_MAX: usize = 123;
    let why = why.as_bytes();
    let why = why.get(..why.len().min(WHY_BYTES_MAX)).unwrap_or_default();
    let length = u8::try_from(2 + why.len()).unwrap_or(2);
    let mut frame = vec![0x80 | CLOSE, length];
    frame.extend_from_slice(&status.to_be_bytes());
    frame.extend_from_slice(why);
    frame
}

/// The messages of a gRPC answer: a flag, four bytes of length, and so many bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Messages {
    head: u8,
    length: u32,
    left: u64,
}

impl Messages {
    const HEAD_BYTES: u8 = 5;

    /// These bytes passed.
    pub(super) fn pass(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.left > 0 {
                (self.left, rest) = skip(rest, self.left);
                continue;
            }
            let Some((byte, after)) = rest.split_first() else { return };
            rest = after;
            if self.head > 0 {
                self.length = self.length << 8 | u32::from(*byte);
            }
            self.head += 1;
            if self.head == Self::HEAD_BYTES {
                self.left = u64::from(self.length);
                self.head = 0;
                self.length = 0;
            }
        }
    }

    /// Whether the next byte begins a message.
    pub(super) const fn is_between(&self) -> bool {
        self.head == 0 && self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(opcode: u8, payload: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut bytes = vec![0x80 | opcode];
        match payload {
            0..=125 => bytes.push(mask | u8::try_from(payload).expect("small")),
            126..=0xffff => {
                bytes.push(mask | 126);
                bytes.extend_from_slice(&u16::try_from(payload).expect("16 bits").to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend_from_slice(&(payload as u64).to_be_bytes());
            }
        }
        bytes.resize(bytes.len() + if masked { 4 } else { 0 } + payload, 0x88);
        bytes
    }

    #[test]
    fn a_close_frame_has_its_status_and_a_short_word() {
        assert_eq!(close_frame(1008, "invalid_key"), b"\x88\x0d\x03\xf0invalid_key");
        assert_eq!(close_frame(1008, &"x".repeat(500)).len(), 127);
    }

    #[test]
    fn a_goodbye_is_noticed() {
        let mut frames = Frames::default();
        frames.pass(&frame(1, 3, false));
        assert!(!frames.is_closed());
        frames.pass(&frame(8, 2, false));
        assert!(frames.is_closed() && frames.is_between());
    }

    proptest! {
        #[test]
        fn the_ends_of_frames_are_found_however_the_bytes_are_cut(
            sizes in prop::collection::vec((prop::sample::select(vec![0, 1, 125, 126, 127, 300, 65_535, 65_536, 70_000]), any::<bool>()), 1..5),
            chunk in 1_usize..70_000,
        ) {
            let (mut bytes, mut ends) = (Vec::new(), vec![0]);
            for (size, masked) in sizes {
                bytes.extend(frame(2, size, masked));
                ends.push(bytes.len());
            }
            let (mut frames, mut passed) = (Frames::default(), 0);
            for piece in bytes.chunks(chunk) {
                let rest = frames.rest_of_frame(&bytes[passed..]);
                prop_assert_eq!(passed + rest, *ends.iter().find(|end| **end >= passed).expect("an end"));
                frames.pass(piece);
                passed += piece.len();
                prop_assert_eq!(frames.is_between(), ends.contains(&passed));
            }
        }

        #[test]
        fn the_ends_of_grpc_messages_are_found(sizes in prop::collection::vec(0_usize..2000, 1..5), chunk in 1_usize..100) {
            let (mut bytes, mut ends) = (Vec::new(), Vec::new());
            for size in sizes {
                bytes.push(0);
                bytes.extend_from_slice(&u32::try_from(size).expect("small").to_be_bytes());
                bytes.resize(bytes.len() + size, 7);
                ends.push(bytes.len());
            }
            let (mut messages, mut passed) = (Messages::default(), 0);
            for piece in bytes.chunks(chunk) {
                messages.pass(piece);
                passed += piece.len();
                prop_assert_eq!(messages.is_between(), ends.contains(&passed));
            }
        }

        #[test]
        fn no_bytes_confuse_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut frames = Frames::default();
            prop_assert!(frames.rest_of_frame(&bytes) <= bytes.len());
            frames.pass(&bytes);
        }
    }
}
