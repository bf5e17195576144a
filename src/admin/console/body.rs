//! Whether the body of a client message is as the protocol has it.
//!
//! In: type and body of one message. Out: yes or no. pgwire's decoder reads numbers and texts without looking
//! whether they are there, and past the end of the message if it has to: nothing reaches it unchecked.

/// True when `body` is a whole body of a message of type `tag`, with nothing behind it (PostgreSQL protocol,
/// 55.7). Types that pgwire never sees are taken as they are.
pub(super) fn is_well_formed(tag: u8, body: &[u8]) -> bool {
    let mut rest = Rest(body);
    let read = match tag {
        b'B' => bind(&mut rest),
        b'C' | b'D' => rest.take(1).and_then(|kind| matches!(kind, b"S" | b"P").then(|| rest.text())?),
        b'E' => rest.text().and_then(|()| rest.take(4)).map(drop),
        b'H' | b'S' => Some(()),
        b'P' => parse(&mut rest),
        b'Q' => rest.text(),
        _ => return true,
    };
    read.is_some() && rest.0.is_empty()
}

fn parse(rest: &mut Rest<'_>) -> Option<()> {
    rest.text()?;
    rest.text()?;
    let types = rest.count()?;
    rest.take(4 * types).map(drop)
}

fn bind(rest: &mut Rest<'_>) -> Option<()> {
    rest.text()?;
    rest.text()?;
    let formats = rest.count()?;
    rest.take(2 * formats)?;
    for _ in 0..rest.count()? {
        let length = i32::from_be_bytes(rest.take(4)?.try_into().ok()?);
        match usize::try_from(length) {
            Ok(length) => drop(rest.take(length)?),
            // -1 is NULL; no other negative length means anything.
            Err(_) if length == -1 => {}
            Err(_) => return None,
        }
    }
    let formats = rest.count()?;
    rest.take(2 * formats).map(drop)
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn count(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_be_bytes(self.take(2)?.try_into().ok()?)))
    }

    /// A text up to its zero byte.
    fn text(&mut self) -> Option<()> {
        let end = memchr::memchr(0, self.0)?;
        self.take(end + 1).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[(u8, &[u8])] = &[
        (b'Q', b"SHOW NODES\0"),
        (b'P', b"s\0SELECT 1\0\0\x01\0\0\0\x14"),
        (b'B', b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\x01\0\0"),
        (b'E', b"p\0\0\0\0\0"),
        (b'D', b"Sname\0"),
        (b'C', b"P\0"),
        (b'S', b""),
        (b'H', b""),
    ];

    #[test]
    fn whole_bodies_pass_and_no_part_of_them_nor_more() {
        for (tag, body) in WHOLE {
            assert!(is_well_formed(*tag, body), "{}", char::from(*tag));
            for cut in 0..body.len() {
                assert!(!is_well_formed(*tag, &body[..cut]), "{} cut to {cut}", char::from(*tag));
            }
            assert!(!is_well_formed(*tag, &[body, &b"\0"[..]].concat()), "{} and more", char::from(*tag));
        }
    }

    #[test]
    fn lengths_and_kinds_that_cannot_be_are_refused() {
        assert!(!is_well_formed(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"), "length -2");
        assert!(!is_well_formed(b'B', b"\0\0\xff\xff"), "65535 formats");
        assert!(!is_well_formed(b'D', b"Xname\0"), "describes neither");
    }
}
