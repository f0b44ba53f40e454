//! Bytes of a body on their way through the filters: the piece in which they came, as long as it is the only one and nobody
//! changes it. A body that no filter looks at is never copied.

use std::ops::{Deref, Range};

use bytes::{Bytes, BytesMut};

#[derive(Debug)]
pub enum Buffer {
    /// As it came.
    Piece(Bytes),
    /// Of several pieces, or changed.
    Joined(BytesMut),
}

impl Buffer {
    /// Takes all of it out.
    pub fn take(&mut self) -> Buffer {
        std::mem::take(self)
    }

    /// Puts more at the end.
    pub fn append(&mut self, more: Buffer) {
        if self.is_empty() {
            *self = more;
        } else if !more.is_empty() {
            self.joined().extend_from_slice(&more);
        }
    }

    /// Puts bytes in the place of a range, which must be within it.
    pub fn splice(&mut self, range: Range<usize>, bytes: &[u8]) {
        if range.start == self.len() {
            self.joined().extend_from_slice(bytes);
            return;
        }
        let mut changed = BytesMut::with_capacity(range.start + bytes.len() + self.len() - range.end);
        changed.extend_from_slice(&self[..range.start]);
        changed.extend_from_slice(bytes);
        changed.extend_from_slice(&self[range.end..]);
        *self = Buffer::Joined(changed);
    }

    pub fn freeze(self) -> Bytes {
        match self {
            Buffer::Piece(bytes) => bytes,
            Buffer::Joined(bytes) => bytes.freeze(),
        }
    }

    fn joined(&mut self) -> &mut BytesMut {
        if let Buffer::Piece(bytes) = self {
            *self = Buffer::Joined(BytesMut::from(std::mem::take(bytes)));
        }
        match self {
            Buffer::Joined(bytes) => bytes,
            Buffer::Piece(_) => unreachable!("it has just been joined"),
        }
    }
}

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer::Piece(Bytes::new())
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Buffer::Piece(bytes) => bytes,
            Buffer::Joined(bytes) => bytes,
        }
    }
}

impl From<Bytes> for Buffer {
    fn from(bytes: Bytes) -> Buffer {
        Buffer::Piece(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_piece_is_passed_on_as_it_came() {
        let piece = Bytes::from_static(b"one");
        let mut buffer = Buffer::default();
        buffer.append(piece.clone().into());
        buffer.append(Buffer::default());
        assert_eq!(buffer.take().freeze().as_ptr(), piece.as_ptr());
        assert!(buffer.is_empty());
    }

    #[test]
    fn pieces_are_joined_and_ranges_replaced() {
        for (range, bytes, expected) in
            [(0..0, "x", "xabcd"), (0..4, "", ""), (1..3, "long", "alongd"), (4..4, "e", "abcde"), (2..4, "", "ab")]
        {
            let mut buffer = Buffer::from(Bytes::from_static(b"ab"));
            buffer.append(Bytes::from_static(b"cd").into());
            buffer.splice(range.clone(), bytes.as_bytes());
            assert_eq!(&*buffer, expected.as_bytes(), "{range:?}");
        }
    }
}
